//! The memory that a node may use where nobody has said: a part of what the machine has, or of
//! what its control groups allow.

use std::fs;
use std::path::Path;

use super::{Cluster, Member};

/// The share of the available memory that the nodes of one machine use together: the rest is
/// for the page cache and for others.
const SHARE: (u64, u64) = (3, 4);

/// The default of `--memory-limit`, in bytes: three quarters of what there is, shared among the
/// first members with the same address, such as all of the built-in seven. `None` where the
/// system does not say.
#[must_use]
pub fn default_memory_limit(cluster: &Cluster, member: &Member) -> Option<u64> {
    let (part, whole) = SHARE;
    let available = available(Path::new("/"))?;
    Some(available / whole * part / nodes_beside(cluster, member))
}

/// How many first members run on the machine of `member`, itself included.
fn nodes_beside(cluster: &Cluster, member: &Member) -> u64 {
    let members = cluster.members().iter();
    let others =
        members.filter(|other| other.id != member.id && other.peer.ip() == member.peer.ip());
    1 + others.count() as u64
}

/// The memory of the machine, or of the tightest control group around this process.
fn available(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = machine.and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib << 10)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    limits.chain(machine).min()
}

/// The limit of one line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH`, and of all groups
/// around that one.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        list if list.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // In a container the path may be that of the outside; the mount is what it sees.
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    let limits = groups.filter_map(|group| {
        let text = fs::read_to_string(root.join(mount).join(group).join(file)).ok()?;
        // `max` is no limit.
        text.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_decides_and_without_one_the_machine() {
        let machine = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8192 kB\n");
        let alone = root(&[machine]);
        assert_eq!(available(alone.path()), Some(8 << 20));
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let inner = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let outer = ("sys/fs/cgroup/a/memory.max", "5000000\n");
        let second = root(&[machine, group, inner, outer]);
        assert_eq!(available(second.path()), Some(5_000_000));
        let group = ("proc/self/cgroup", "5:cpu,memory:/x\n4:pids:/y\n");
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n");
        let first = root(&[machine, group, limit]);
        assert_eq!(available(first.path()), Some(4_000_000));
        assert_eq!(available(root(&[]).path()), None);
    }

    #[test]
    fn nodes_on_one_machine_share_its_memory() {
        let seven = Cluster::default();
        let first = *seven.member(NodeId(0)).unwrap();
        assert_eq!(nodes_beside(&seven, &first), 7);
        let elsewhere = Member {
            id: NodeId(9),
            peer: "10.0.0.1:1".parse().unwrap(),
            ..first
        };
        assert_eq!(nodes_beside(&seven, &elsewhere), 1);
    }
}
