//! A cluster of real processes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raftkv::pb::StatusResponse;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use super::eventually;
use super::ports::Ports;
use super::wire::Connection;

/// The program under test.
pub const RAFT_EXAMPLE: &str = env!("CARGO_BIN_EXE_raft_example");
/// How long anything that has to happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);
/// How long a node may take to answer a question about its status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// How much of a log is shown when a test fails.
const TAIL_BYTES: usize = 4_000;

/// Clusters run one after the other: several at a time would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Keeps other tests of the program from running a cluster meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    // A test that failed while it was alone has ended all the same.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node's process is doing.
#[derive(Debug)]
enum Process {
    Down,
    Running(Child),
    /// Stopped by SIGSTOP: it answers nothing, its sockets stay.
    Paused(Child),
}

/// A cluster in a directory of its own; ends with its processes when dropped.
#[derive(Debug)]
pub struct TestCluster {
    nodes: Vec<Process>,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    arguments: Vec<String>,
    /// How many of the nodes are first members; the others join later.
    first: usize,
    /// Whether a cluster of one has been founded: once in its life.
    founded: bool,
    /// Put before the program: a tracer, say. `{node}` stands for the node's number.
    wrapper: Vec<String>,
    directory: TempDir,
    /// None if the addresses are not of this machine's loopback.
    _ports: Option<Ports>,
    _alone: MutexGuard<'static, ()>,
}

impl TestCluster {
    /// A cluster of so many nodes, none of them started, with these arguments for each.
    pub fn prepare(nodes: usize, arguments: &[&str]) -> TestCluster {
        TestCluster::prepare_with_spares(nodes, 0, arguments)
    }

    /// As [`TestCluster::prepare`], with so many nodes more that are no members at first.
    pub fn prepare_with_spares(first: usize, spares: usize, arguments: &[&str]) -> TestCluster {
        let nodes = first + spares;
        let ports = Ports::reserve(2 * nodes);
        let (peers, clients) = ports.addresses().split_at(nodes);
        let mut cluster = TestCluster::prepare_at(peers, clients, first, arguments);
        cluster._ports = Some(ports);
        cluster
    }

    /// A cluster of nodes that listen on these addresses, none of them started; so many of
    /// them are first members.
    pub fn prepare_at(
        peers: &[SocketAddr],
        clients: &[SocketAddr],
        first: usize,
        arguments: &[&str],
    ) -> TestCluster {
        let alone = alone();
        let directory = TempDir::new().expect("a directory for the cluster");
        let mut members = String::new();
        for (id, (peer, client)) in peers.iter().zip(clients).enumerate().take(first) {
            writeln!(
                members,
                "[[node]]\nid = {id}\npeer = \"{peer}\"\nclient = \"{client}\"\n"
            )
            .expect("writing to a string");
        }
        fs::write(directory.path().join("cluster.toml"), members).expect("the cluster file");
        TestCluster {
            nodes: peers.iter().map(|_| Process::Down).collect(),
            clients: clients.to_vec(),
            peers: peers.to_vec(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            first,
            founded: false,
            wrapper: Vec::new(),
            directory,
            _ports: None,
            _alone: alone,
        }
    }

    /// A cluster with all nodes started.
    pub fn start_all(nodes: usize, arguments: &[&str]) -> TestCluster {
        let mut cluster = TestCluster::prepare(nodes, arguments);
        for node in 0..nodes {
            cluster.start(node);
        }
        cluster
    }

    /// A cluster with all nodes started and a leader.
    pub fn with_leader(nodes: usize, arguments: &[&str]) -> TestCluster {
        let mut cluster = TestCluster::start_all(nodes, arguments);
        cluster.wait_for_leader(SOON);
        cluster
    }

    /// Gives one node a cluster file of its own.
    pub fn set_cluster_file(&mut self, node: usize, text: &str) {
        fs::write(self.own_file(node), text).expect("the node's cluster file");
    }

    fn own_file(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("cluster_{node}.toml"))
    }

    /// Puts a program and its arguments before `raft_example` from now on.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
    }

    /// How many nodes it has, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All of its numbers.
    pub fn ids(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// Where clients reach the nodes.
    pub fn clients(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// Where clients reach this node.
    pub fn client(&self, node: usize) -> SocketAddr {
        self.clients[node]
    }

    /// Where other nodes reach this node.
    pub fn peer(&self, node: usize) -> SocketAddr {
        self.peers[node]
    }

    /// The working directory of all nodes.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where all nodes have their data directories.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The data directory of one node.
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.data_dir().join(format!("raftnode_{node}"))
    }

    /// The command that runs a node, with nothing said about its output.
    pub fn command(&self, node: usize) -> Command {
        let mut words: Vec<String> = self
            .wrapper
            .iter()
            .map(|w| w.replace("{node}", &node.to_string()))
            .collect();
        words.push(RAFT_EXAMPLE.to_owned());
        let own_file = self.own_file(node);
        let cluster_file = if own_file.exists() {
            own_file
        } else {
            self.directory.path().join("cluster.toml")
        };
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(node.to_string())
            .arg("--cluster")
            .arg(cluster_file)
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--log-level", "debug"])
            .args(&self.arguments)
            .args(self.join(node))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// What a node is told that is not a first member.
    fn join(&self, node: usize) -> Vec<String> {
        if node < self.first {
            return Vec::new();
        }
        let addresses = format!("{},{}", self.peers[node], self.clients[node]);
        vec!["--join".to_owned(), addresses]
    }

    /// Starts a node that is down. What it prints is appended to what it printed before.
    pub fn start(&mut self, node: usize) {
        self.start_with(node, &[]);
    }

    /// As [`TestCluster::start`], with these arguments more for this once.
    pub fn start_with(&mut self, node: usize, more: &[&str]) {
        assert!(matches!(self.nodes[node], Process::Down), "{node} is up");
        fs::create_dir_all(self.data_dir()).expect("the data directory");
        if self.first == 1 && node == 0 && !std::mem::replace(&mut self.founded, true) {
            self.found(0);
        }
        let output = self.log(node);
        let child = self
            .command(node)
            .args(more)
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start node {node}: {e}"));
        self.nodes[node] = Process::Running(child);
    }

    /// Founds the cluster in a node's new directory, as an operator does for a cluster of one.
    pub fn found(&self, node: usize) {
        let mut command = Command::new(RAFT_EXAMPLE);
        command
            .arg(node.to_string())
            .arg("--cluster")
            .arg(self.directory.path().join("cluster.toml"))
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.arguments)
            .arg("--found")
            .stdin(Stdio::null());
        let output = command.output().expect("raft_example runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts a node and waits until it answers.
    pub fn start_and_wait(&mut self, node: usize) {
        self.start(node);
        eventually(&format!("node {node} answers"), SOON, || self.status(node));
    }

    /// Ends a node at once (SIGKILL), paused or not.
    pub fn kill(&mut self, node: usize) {
        let process = std::mem::replace(&mut self.nodes[node], Process::Down);
        if let Process::Running(mut child) | Process::Paused(mut child) = process {
            kill_with_children(&mut child);
            let _ = child.wait();
        }
    }

    /// Ends the program behind a wrapper and lets the wrapper end by itself, so that a tracer writes
    /// down what it still has.
    pub fn kill_behind_wrapper(&mut self, node: usize) {
        let process = std::mem::replace(&mut self.nodes[node], Process::Down);
        if let Process::Running(mut child) | Process::Paused(mut child) = process {
            for traced in children_of(pid(&child)) {
                let _ = kill_process(traced, Signal::KILL);
            }
            if wait_for_exit(&mut child, SOON).is_none() {
                kill_with_children(&mut child);
                let _ = child.wait();
                panic!("the wrapper of node {node} did not end");
            }
        }
    }

    /// Ends several nodes at once: all signals are sent before any end is waited for.
    pub fn kill_all(&mut self, nodes: impl IntoIterator<Item = usize>) {
        let mut children = Vec::new();
        for node in nodes {
            let process = std::mem::replace(&mut self.nodes[node], Process::Down);
            if let Process::Running(mut child) | Process::Paused(mut child) = process {
                kill_with_children(&mut child);
                children.push(child);
            }
        }
        for mut child in children {
            let _ = child.wait();
        }
    }

    /// Asks a node to end (SIGTERM, or another signal that means it) and waits.
    pub fn terminate(&mut self, node: usize, signal: Signal) -> ExitStatus {
        let Process::Running(mut child) = std::mem::replace(&mut self.nodes[node], Process::Down)
        else {
            panic!("node {node} is not running");
        };
        kill_process(pid(&child), signal).expect("the process is there");
        wait_for_exit(&mut child, SOON).unwrap_or_else(|| {
            kill_with_children(&mut child);
            panic!("node {node} did not end on {signal:?}\n{}", self.tail(node))
        })
    }

    /// Waits until a node has ended by itself.
    pub fn ended(&mut self, node: usize, limit: Duration) -> ExitStatus {
        let Process::Running(mut child) = std::mem::replace(&mut self.nodes[node], Process::Down)
        else {
            panic!("node {node} is not running");
        };
        wait_for_exit(&mut child, limit).unwrap_or_else(|| {
            kill_with_children(&mut child);
            panic!("node {node} has not ended\n{}", self.tail(node))
        })
    }

    /// Stops a node without ending it (SIGSTOP).
    pub fn pause(&mut self, node: usize) {
        match std::mem::replace(&mut self.nodes[node], Process::Down) {
            Process::Running(child) => {
                kill_process(pid(&child), Signal::STOP).expect("the process is there");
                self.nodes[node] = Process::Paused(child);
            }
            _ => panic!("node {node} is not running"),
        }
    }

    /// Lets a paused node go on (SIGCONT).
    pub fn resume(&mut self, node: usize) {
        match std::mem::replace(&mut self.nodes[node], Process::Down) {
            Process::Paused(child) => {
                kill_process(pid(&child), Signal::CONT).expect("the process is there");
                self.nodes[node] = Process::Running(child);
            }
            _ => panic!("node {node} is not paused"),
        }
    }

    /// Kills a node and starts it again.
    pub fn restart(&mut self, node: usize) {
        self.kill(node);
        self.start(node);
    }

    /// Whether the node's process is there and not paused.
    pub fn is_running(&self, node: usize) -> bool {
        matches!(self.nodes[node], Process::Running(_))
    }

    /// Asserts that all nodes that were started still run.
    pub fn assert_alive(&mut self) {
        for node in self.ids() {
            let (Process::Running(child) | Process::Paused(child)) = &mut self.nodes[node] else {
                continue;
            };
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("node {node} ended by itself: {status}\n{}", self.tail(node));
            }
        }
    }

    /// The node's process.
    pub fn pid(&self, node: usize) -> Pid {
        match &self.nodes[node] {
            Process::Running(child) | Process::Paused(child) => pid(child),
            Process::Down => panic!("node {node} is down"),
        }
    }

    /// Memory of the node's process that is in use, in bytes.
    pub fn resident_bytes(&self, node: usize) -> u64 {
        self.memory(node, "VmRSS:")
    }

    /// The most memory that the node's process ever had in use, in bytes.
    pub fn peak_resident_bytes(&self, node: usize) -> u64 {
        self.memory(node, "VmHWM:")
    }

    fn memory(&self, node: usize, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid(node).as_raw_nonzero());
        let text = fs::read_to_string(path).expect("the process is there");
        let line = text.lines().find(|l| l.starts_with(name));
        let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.expect("a line in KiB") << 10
    }

    /// What the node says about itself; `None` if it does not answer.
    pub fn status(&self, node: usize) -> Option<StatusResponse> {
        if !self.is_running(node) {
            return None;
        }
        let mut connection = Connection::open(self.clients[node], STATUS_TIMEOUT).ok()?;
        connection.status().ok()
    }

    /// The running node that leads, if there is one: of several that think so, the one with the
    /// highest term.
    pub fn leader(&self) -> Option<usize> {
        self.ids()
            .filter_map(|node| Some((self.status(node)?, node)))
            .filter(|(status, _)| status.role == "leader")
            .max_by_key(|(status, _)| status.term)
            .map(|(_, node)| node)
    }

    /// Waits until a node leads and has committed something in its term.
    pub fn wait_for_leader(&mut self, limit: Duration) -> usize {
        self.wait_for_leader_other_than(usize::MAX, limit)
    }

    /// Waits until a node other than this one leads.
    pub fn wait_for_leader_other_than(&mut self, old: usize, limit: Duration) -> usize {
        eventually("a leader", limit, || {
            self.assert_alive();
            let leader = self.leader().filter(|leader| *leader != old)?;
            let notice = self.status(leader)?.notice;
            (!notice.contains("founded")).then_some(leader)
        })
    }

    /// Waits until all running nodes have applied what `node` has committed now.
    pub fn wait_until_equal(&self, node: usize, limit: Duration) {
        let goal = eventually("a status", limit, || self.status(node)).commit_index;
        for other in self.ids().filter(|n| self.is_running(*n)) {
            let what = format!("node {other} has applied {goal}");
            eventually(&what, limit, || {
                (self.status(other)?.applied_index >= goal).then_some(())
            });
        }
    }

    /// Everything that the node has printed, on both streams.
    pub fn output(&self, node: usize) -> String {
        let bytes = fs::read(self.log_path(node)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the node has printed this.
    pub fn log_contains(&self, node: usize, text: &str) -> bool {
        self.output(node).contains(text)
    }

    /// Asserts that no node has panicked.
    pub fn assert_no_panic(&self) {
        for node in self.ids() {
            assert!(
                !self.log_contains(node, "panicked"),
                "node {node} panicked\n{}",
                self.tail(node)
            );
        }
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node_{node}.log"))
    }

    fn log(&self, node: usize) -> File {
        File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .expect("the node's log")
    }

    fn tail(&self, node: usize) -> String {
        let output = self.output(node);
        let mut from = output.len().saturating_sub(TAIL_BYTES);
        while !output.is_char_boundary(from) {
            from += 1;
        }
        format!("--- end of node {node}'s output\n{}", &output[from..])
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.kill_all(self.ids());
        if std::thread::panicking() {
            for node in self.ids() {
                eprintln!("{}", self.tail(node));
            }
        }
    }
}

/// Lets this process have at least so many open files, if the system allows it.
pub fn raise_open_files(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        setrlimit(Resource::Nofile, limit).expect("a limit below the maximum");
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A wrapper such as a tracer leaves its own child behind when it is killed.
fn kill_with_children(child: &mut Child) {
    for process in children_of(pid(child)) {
        let _ = kill_process(process, Signal::KILL);
    }
    let _ = child.kill();
}

/// The direct children of a process.
pub fn children_of(process: Pid) -> Vec<Pid> {
    let number = process.as_raw_nonzero();
    let path = format!("/proc/{number}/task/{number}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| Pid::from_raw(word.parse().ok()?))
        .collect()
}

/// How the process ended; `None` if it has not within the limit.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < limit => std::thread::sleep(super::POLL),
            Ok(None) => return None,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => panic!("cannot wait for a child: {e}"),
        }
    }
}
