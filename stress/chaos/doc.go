// Package chaos is a test: filestore, redisstore and pgxstore under processes
// that are killed, servers that are killed and stopped, connections that are
// cut, and disks that are full.
package chaos
