//! `run.sh`, `stop.sh` and `clean.sh` in a folder laid out as `scripts/build.sh` does it: nodes start detached,
//! only those of the folder are stopped, and what is removed is what nodes wrote.
//!
//! The scripts use the ports of the default cluster. Where these are taken, the test says so and does nothing.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, getpgid};
use tempfile::TempDir;

const SCRIPTS: [&str; 4] = ["run.sh", "stop.sh", "clean.sh", "nodes.sh"];
const PORTS: std::ops::RangeInclusive<u16> = 4396..=4409;
/// How long anything that has to happen soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// A folder with the programs and the scripts. Its nodes end with it.
struct Folder {
    /// Holds nothing but the folder: what else appears in it was written outside.
    parent: TempDir,
    path: PathBuf,
}

impl Folder {
    fn lay_out() -> Folder {
        let parent = tempfile::tempdir().expect("a temporary directory");
        // As the scripts see it: without symbolic links.
        let path = parent.path().canonicalize().expect("it exists");
        let path = path.join("an example");
        fs::create_dir(&path).expect("a folder");
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        for name in SCRIPTS {
            install(&scripts.join(name), &path.join(name));
        }
        install(
            env!("CARGO_BIN_EXE_raft_example").as_ref(),
            &path.join("raft_example"),
        );
        install(
            env!("CARGO_BIN_EXE_raft_client").as_ref(),
            &path.join("raft_client"),
        );
        Folder { parent, path }
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        // From elsewhere: a script finds its folder by itself.
        Command::new(self.path.join(script))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("the script runs")
    }

    fn run_well(&self, script: &str, arguments: &[&str]) -> String {
        let output = self.run(script, arguments);
        let said = text(&output);
        assert!(output.status.success(), "{script} {arguments:?}: {said}");
        said
    }

    /// The processes that run this folder's program, also if the file was replaced.
    fn nodes(&self) -> Vec<Pid> {
        let program = self.path.join("raft_example");
        let replaced = PathBuf::from(format!("{} (deleted)", program.display()));
        fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|entry| {
                let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let runs = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                (runs == program || runs == replaced).then(|| Pid::from_raw(pid))?
            })
            .collect()
    }

    /// What there is in the folder, in order.
    fn content(&self) -> Vec<String> {
        names_in(&self.path)
    }

    fn client(&self, words: &[&str]) -> String {
        let output = Command::new(self.path.join("raft_client"))
            .args(words)
            .output()
            .expect("the client runs");
        // A redirect may come before the result.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = Command::new(self.path.join("stop.sh")).output();
    }
}

/// The session of a process: the number of its leader, or 0 when the leader is outside our PID namespace, as in a
/// container. That is why it is read here: `getsid` of rustix takes 0 for impossible, and panics.
fn session_of(process: &str) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    // `pid (name) state ppid pgrp session …`, and the name may hold anything.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let session = fields.split(' ').nth(3).expect("a session");
    session.parse().expect("a number")
}

fn install(from: &Path, to: &Path) {
    // A new file by rename, as scripts/build.sh does it: the old one may be running.
    let new = to.with_extension("new");
    fs::copy(from, &new).expect("a copy");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::rename(&new, to).expect("in its place");
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !look() {
        assert!(begin.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The default ports, if they are free: to be held while nodes use them, so that no two tests of this
/// machine do so at a time.
fn default_ports() -> Option<File> {
    let path = std::env::temp_dir().join("raftkv-default-ports.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    for port in PORTS {
        // Someone may have just stopped: connections that linger there do not count.
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpStream::connect_timeout(&addr, Duration::from_millis(200)).is_ok()
            || TcpListener::bind(addr).is_err()
        {
            println!("skipped: port {port}, of the default cluster, is in use");
            return None;
        }
    }
    Some(lock)
}

/// A process that ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nodes_start_detached_and_only_those_of_the_folder_are_stopped() {
    let Some(_ports) = default_ports() else {
        return;
    };
    let (folder, other) = (Folder::lay_out(), Folder::lay_out());
    // In windows of their own, as in the README, and one that belongs to somebody else.
    let in_window = |folder: &Folder, node: &str, more: &[&str]| {
        Background(
            Command::new(folder.path.join("raft_example"))
                .arg(node)
                .args(more)
                .current_dir(&folder.path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a node"),
        )
    };
    fs::write(
        other.path.join("cluster.toml"),
        "[[node]]\nid = 0\npeer = '127.0.0.1:4408'\nclient = '127.0.0.1:4409'\n",
    )
    .expect("a file");
    let mut stranger = in_window(&other, "0", &["--cluster", "cluster.toml"]);
    let _zero = in_window(&folder, "0", &[]);
    let _one = in_window(&folder, "1", &[]);
    let said = folder.run_well("run.sh", &["2", "3", "4", "5"]);
    assert!(said.contains("Starting Raft node 5 on port 4406"), "{said}");
    eventually("six nodes run", || folder.nodes().len() == 6);
    eventually("a put is taken", || {
        folder.client(&["--timeout", "2", "update", "hello", "ww-raftkv"]) == "success"
    });
    assert_eq!(folder.client(&["get", "hello"]), "success: ww-raftkv");

    let ours = session_of("self");
    let detached: Vec<Pid> = folder
        .nodes()
        .into_iter()
        .filter(|pid| session_of(&pid.as_raw_nonzero().to_string()) != ours)
        .collect();
    assert_eq!(
        detached.len(),
        4,
        "those of run.sh have sessions of their own"
    );
    for pid in &detached {
        assert_eq!(getpgid(Some(*pid)), Ok(*pid));
        for (fd, expected) in [(0, "/dev/null"), (1, "logs/node_"), (2, "logs/node_")] {
            let target = fs::read_link(format!("/proc/{}/fd/{fd}", pid.as_raw_nonzero()));
            let target = target.expect("an open file");
            assert!(
                target.to_string_lossy().contains(expected),
                "{fd}: {target:?}"
            );
        }
    }

    let again = folder.run("run.sh", &["2"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again).contains("node 2 is already running"),
        "{}",
        text(&again)
    );
    let refused = folder.run("clean.sh", &[]);
    assert_eq!(refused.status.code(), Some(1), "clean.sh while nodes run");
    assert!(folder.content().contains(&"raftnode_0".to_owned()));

    // A rebuild replaces the program under the running nodes.
    install(
        env!("CARGO_BIN_EXE_raft_example").as_ref(),
        &folder.path.join("raft_example"),
    );
    let said = folder.run_well("stop.sh", &[]);
    assert_eq!(
        said.matches("stopped.").count(),
        7,
        "six nodes, and all: {said}"
    );
    assert!(folder.nodes().is_empty(), "{said}");
    assert!(
        stranger.0.try_wait().expect("its state").is_none(),
        "another folder's node runs on"
    );
    assert!(
        folder
            .run_well("stop.sh", &[])
            .contains("No Raft node runs")
    );
}

#[test]
fn what_nodes_wrote_is_removed_and_nothing_else() {
    let Some(_ports) = default_ports() else {
        return;
    };
    let folder = Folder::lay_out();
    let before = folder.content();
    folder.run_well("run.sh", &["0", "6"]);
    eventually("both nodes write", || {
        folder.path.join("raftnode_0/meta").exists() && folder.path.join("raftnode_6/meta").exists()
    });
    folder.run_well("stop.sh", &[]);
    let written: Vec<String> = folder
        .content()
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    assert_eq!(written, ["logs", "raftnode_0", "raftnode_6"]);
    assert_eq!(
        names_in(&folder.path.join("logs")),
        ["node_0.log", "node_6.log"]
    );

    // Nothing of this is a node's.
    let elsewhere = folder.parent.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    fs::write(elsewhere.join("precious"), "data").expect("a file");
    std::os::unix::fs::symlink(&elsewhere, folder.path.join("raftnode_3")).expect("a link");
    fs::create_dir(folder.path.join("raftnode_x")).expect("a directory");
    fs::write(folder.path.join("raftnode_9"), "a file").expect("a file");
    fs::write(folder.path.join("notes.txt"), "mine").expect("a file");
    fs::write(folder.path.join("logs/mine.log"), "mine").expect("a file");
    folder.run_well("clean.sh", &[]);
    let mut left = before;
    left.extend(
        [
            "logs",
            "notes.txt",
            "raftnode_3",
            "raftnode_9",
            "raftnode_x",
        ]
        .map(String::from),
    );
    left.sort();
    assert_eq!(folder.content(), left);
    assert_eq!(names_in(&folder.path.join("logs")), ["mine.log"]);
    assert_eq!(names_in(&elsewhere), ["precious"]);
    assert_eq!(names_in(folder.parent.path()), ["an example", "elsewhere"]);
}

#[test]
fn a_node_that_cannot_start_is_reported_with_the_end_of_its_log() {
    let Some(_ports) = default_ports() else {
        return;
    };
    let folder = Folder::lay_out();
    fs::write(folder.path.join("raftnode_4"), "in the way").expect("a file");
    let output = folder.run("run.sh", &["4"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("node 4 ended at once"),
        "{}",
        text(&output)
    );
    for arguments in [&["7"][..], &["x"], &["-1"]] {
        assert_eq!(
            folder.run("run.sh", arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
