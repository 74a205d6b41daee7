package filestore

import (
	"golang.org/x/sys/windows"
)

// networkFS says "remote drive" if path is on one, by a letter or as
// \\server\share, and "" if it is local.
func networkFS(path string) (string, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return "", err
	}
	volume := make([]uint16, windows.MAX_LONG_PATH)
	if err := windows.GetVolumePathName(name, &volume[0], uint32(len(volume))); err != nil {
		return "", err
	}
	if windows.GetDriveType(&volume[0]) == windows.DRIVE_REMOTE {
		return "remote drive", nil
	}
	return "", nil
}
