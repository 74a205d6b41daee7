package filestore

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNetworkFileSystemsAreKnown(t *testing.T) {
	for magic, want := range map[uint32]string{
		0x6969:     "NFS",
		0xff534d42: "SMB",
		0xfe534d42: "SMB",
		0x517b:     "SMB",
		0x01021997: "9P",
		0x65735546: "FUSE",
		0x00c36400: "Ceph",
		0x5346414f: "AFS",
		0x6b414653: "AFS",
		0x73757245: "Coda",
		0x7461636f: "OCFS2",
		0x01161970: "GFS2",
		0x0bd00bd0: "Lustre",
		0x47504653: "GPFS",

		unix.EXT4_SUPER_MAGIC:      "",
		unix.XFS_SUPER_MAGIC:       "",
		unix.BTRFS_SUPER_MAGIC:     "",
		unix.TMPFS_MAGIC:           "",
		unix.OVERLAYFS_SUPER_MAGIC: "",
		unix.F2FS_SUPER_MAGIC:      "",
	} {
		if got := networkName(magic); got != want {
			t.Errorf("%#x is %q, want %q", magic, got, want)
		}
	}
}

func TestNetworkFolderIsRefusedUnlessAllowed(t *testing.T) {
	err := refuseNetwork("/mnt/home", "NFS")
	for _, want := range []string{"filestore: /mnt/home: ", "network file system (NFS)", "locks", "Store.AllowNetworkFS"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if err := checkLocal(t.TempDir(), false); err != nil {
		t.Errorf("a local folder: %v", err)
	}
	// A folder that cannot even be examined passes if all are allowed.
	if err := checkLocal("/nowhere/at/all", true); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if err := checkLocal("/nowhere/at/all", false); err == nil {
		t.Error("a folder that cannot be examined is not refused")
	}
}
