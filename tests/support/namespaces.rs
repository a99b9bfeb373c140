//! Network namespaces: a machine of its own for each node, as far as the network can tell.
//!
//! Each node's namespace is joined by a veth pair to a bridge in one more, the hub, where the
//! clients are. What a node does not want to hear is dropped as it comes in, by a rule of its routing
//! (`ip rule … blackhole`): a message is lost in one direction, and no sender gets an error. A node is
//! cut off from all by taking its link down.
//!
//! Names have the number of this process in them. All is removed on drop, and what a killed
//! process has left behind by the next one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::links::Links;

/// What all names begin with.
const PREFIX: &str = "raftkv-";
/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// Among the rules of a node: what it does not hear comes before what is for it.
const DEAF_PREF: &str = "100";
const LOCAL_PREF: &str = "200";

/// Tells the layouts of one process apart.
static LAYOUTS: AtomicU32 = AtomicU32::new(0);

/// A hub and the namespaces of so many nodes.
#[derive(Debug)]
pub struct Namespaces {
    /// `raftkv-PID-NUMBER-`.
    prefix: String,
    nodes: usize,
    /// Who does not hear whom: (from, to).
    lost: BTreeSet<(usize, usize)>,
    down: BTreeSet<usize>,
}

impl Namespaces {
    /// Lays out the namespaces, each with a link to the hub.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn lay_out(nodes: usize) -> Result<Namespaces, String> {
        remove_leftovers();
        // ORDERING: hands out numbers, and nothing else.
        let number = LAYOUTS.fetch_add(1, Ordering::Relaxed);
        let layout = Namespaces {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
            nodes,
            lost: BTreeSet::new(),
            down: BTreeSet::new(),
        };
        layout.make()?;
        Ok(layout)
    }

    fn make(&self) -> Result<(), String> {
        let hub = self.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} addr add {}/24 dev bridge", address(253)))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        for node in 0..self.nodes {
            let name = self.name(node);
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "link add to{node} netns {hub} type veth peer name eth netns {name}"
            ))?;
            ip(&format!("-n {hub} link set to{node} master bridge"))?;
            ip(&format!("-n {hub} link set to{node} up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth", address(node)))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth up"))?;
            // Else what is for this node would be taken before any other rule is asked.
            ip(&format!(
                "-n {name} rule add pref {LOCAL_PREF} lookup local"
            ))?;
            ip(&format!("-n {name} rule del pref 0"))?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The namespace of a node.
    pub fn name(&self, node: usize) -> String {
        format!("{}{node}", self.prefix)
    }

    /// A command that runs a program in the namespace of `{node}`, for `TestCluster::wrap`.
    pub fn wrapper(&self) -> [String; 4] {
        let name = format!("{}{{node}}", self.prefix);
        ["ip".into(), "netns".into(), "exec".into(), name]
    }

    /// The address of a node with this port.
    pub fn address(&self, node: usize, port: u16) -> SocketAddr {
        SocketAddr::from((address(node), port))
    }

    /// Moves the calling thread, and those that it starts from now on, into the hub.
    pub fn enter_hub(&self) -> Result<(), String> {
        let path = format!("{NAMES}/{}", self.hub());
        let file = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| format!("setns {path}: {e}"))
    }

    fn set_link(&self, node: usize, state: &str) {
        must(&format!("-n {} link set to{node} {state}", self.hub()));
    }

    fn rule(&self, what: &str, (from, to): (usize, usize)) {
        let (name, from) = (self.name(to), address(from));
        must(&format!(
            "-n {name} rule {what} pref {DEAF_PREF} from {from} blackhole"
        ));
    }
}

impl Links for Namespaces {
    fn lose(&mut self, from: usize, to: usize) {
        if self.lost.insert((from, to)) {
            self.rule("add", (from, to));
        }
    }

    fn cut_off(&mut self, node: usize) {
        if self.down.insert(node) {
            self.set_link(node, "down");
        }
    }

    fn heal(&mut self) {
        for link in std::mem::take(&mut self.lost) {
            self.rule("del", link);
        }
        for node in std::mem::take(&mut self.down) {
            self.set_link(node, "up");
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in names().filter(|name| name.starts_with(&self.prefix)) {
            remove(&name);
        }
    }
}

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, 0, u8::try_from(node + 1).expect("few nodes"))
}

/// The namespaces that are there.
fn names() -> impl Iterator<Item = String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Removes what processes have left behind that are gone.
fn remove_leftovers() {
    for name in names() {
        let number = name.strip_prefix(PREFIX).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if number.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove(&name);
        }
    }
}

/// Removes a namespace, with its links. A failure is told; there is no more to be done.
fn remove(name: &str) {
    if let Err(reason) = ip(&format!("netns del {name}")) {
        eprintln!("{reason}");
    }
}

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(words.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {words}: {}", reason.trim()))
}

fn must(words: &str) {
    ip(words).unwrap_or_else(|reason| panic!("{reason}"));
}
