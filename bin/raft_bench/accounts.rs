//! What the run costs: CPU time from the processes' own accounts, syncs from the leader's.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use raftkv::client::status_of;
use rustix::time::{ClockId, clock_gettime};

/// How long the nodes may take to answer a question about their status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where the leader is; waits so long until there is one.
///
/// # Errors
/// What the nodes have said instead.
pub fn find_leader(addrs: &[SocketAddr], timeout: Duration) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + timeout;
    loop {
        let nodes = status_of(addrs, STATUS_TIMEOUT.min(timeout));
        // After a partition two may think so.
        let leaders = nodes.iter().filter_map(|node| {
            let status = node.status.as_ref().ok()?;
            (status.role == "leader").then_some((status.term, node.addr))
        });
        if let Some((_, addr)) = leaders.max() {
            return Ok(addr);
        }
        if Instant::now() > deadline {
            let said = nodes.iter().map(|node| match &node.status {
                Ok(status) => format!("{}: {}", node.addr, status.role),
                Err(reason) => format!("{}: {reason}", node.addr),
            });
            let said = said.collect::<Vec<_>>().join("; ");
            return Err(format!(
                "cluster not reachable: no node leads; tried {said}"
            ));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// The accounts at one moment.
pub struct Accounts {
    /// Syncs of the node that leads; `None` if none does.
    syncs: Option<(SocketAddr, u64)>,
    /// CPU seconds of each server process; `None` if it is gone.
    servers: Vec<Option<f64>>,
    own: f64,
}

/// What lies between two moments.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Syncs of the leader; `None` if it has changed.
    pub leader_syncs: Option<u64>,
    /// CPU seconds of each server process; 0 for one that has ended.
    pub servers: Vec<f64>,
    /// CPU seconds of this process.
    pub own: f64,
}

impl Costs {
    /// CPU seconds of all server processes that were named.
    pub fn all_servers(&self) -> f64 {
        // From 0, for the sum of none is -0.
        self.servers.iter().fold(0.0, |sum, seconds| sum + seconds)
    }
}

impl Accounts {
    pub fn take(addrs: &[SocketAddr], pids: &[u32]) -> Accounts {
        let servers = pids.iter().map(|pid| cpu_seconds(*pid).ok()).collect();
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own = own.tv_sec as f64 + own.tv_nsec as f64 / 1e9;
        let nodes = status_of(addrs, STATUS_TIMEOUT);
        let leaders = nodes.iter().filter_map(|node| {
            let status = node.status.as_ref().ok()?;
            (status.role == "leader").then_some((status.term, node.addr, status.syncs))
        });
        Accounts {
            syncs: leaders.max().map(|(_, addr, syncs)| (addr, syncs)),
            servers,
            own,
        }
    }

    pub fn since(&self, earlier: &Accounts) -> Costs {
        let leader_syncs = match (self.syncs, earlier.syncs) {
            (Some((leader, after)), Some((before_leader, before))) if leader == before_leader => {
                after.checked_sub(before)
            }
            _ => None,
        };
        let servers = self.servers.iter().zip(&earlier.servers);
        Costs {
            leader_syncs,
            servers: servers
                .map(|pair| match pair {
                    (Some(after), Some(before)) => after - before,
                    _ => 0.0,
                })
                .collect(),
            own: self.own - earlier.own,
        }
    }
}

/// CPU seconds that a process has used, user and system.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |place: usize| fields.get(place).and_then(|f| f.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(format!("{path}: not understood"));
    };
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}
