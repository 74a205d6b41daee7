package redisstore

import (
	"errors"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
)

// replyError is an error that Redis answered with.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

// Redis 6.2 and older wrap what a command in a script failed with.
func TestTransient(t *testing.T) {
	for err, want := range map[error]bool{
		replyError("READONLY You can't write against a read only replica."):                                                                                 true,
		replyError("READONLY You can't write against a read only replica. script: 3f..., on @user_script:7."):                                               true,
		replyError("ERR Error running script (call to f_3f0a): @user_script:7: @user_script: 7: -READONLY You can't write against a read only replica. "):   true,
		replyError("ERR Error running script (call to f_3f0a): @user_script:7: @user_script: 7: -OOM command not allowed when used memory > 'maxmemory'. "): true,
		replyError("ERR Error running script (call to f_3f0a): @user_script:7: @user_script: 7: -MISCONF Redis is configured to save RDB snapshots"):        true,
		replyError("LOADING Redis is loading the dataset in memory"):                                                                                        true,
		replyError("CLUSTERDOWN The cluster is down"):                                                                                                       true,
		replyError("ERR max number of clients reached"):                                                                                                     true,
		replyError("NOPERM this user has no permissions to run the 'evalsha' command"):                                                                      false,
		replyError("ERR Error running script (call to f_3f0a): @user_script:7: @user_script: 7: Unknown Redis command called from Lua script"):              false,
		replyError("WRONGTYPE Operation against a key holding the wrong kind of value"):                                                                     false,
		io.EOF:          true,
		redis.ErrClosed: false,
	} {
		if got := new(server).Transient(err); got != want {
			t.Errorf("Transient(%v): %v, want %v", err, got, want)
		}
	}
}

func TestHasCode(t *testing.T) {
	for text, want := range map[string]bool{
		"WRONGTYPE Operation against a key holding the wrong kind of value script: 1a, on @user_script:2.":             true,
		"ERR Error running script (call to f_1a): @user_script:2: WRONGTYPE Operation against a key holding the wrong": true,
		"ERR NOTWRONGTYPE": false,
	} {
		if got := hasCode(errors.New(text), "WRONGTYPE"); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
