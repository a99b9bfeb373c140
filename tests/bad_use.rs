//! Bad use of `raft_example`: one clear line on stderr, a non-zero exit code, nothing damaged. And good
//! use: it ends when it is asked to.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use raftkv::logging::{self, LogOptions};
use rustix::process::Signal;
use support::cluster::{RAFT_EXAMPLE, SOON, TestCluster, alone, wait_for_exit};
use support::eventually;
use support::wire::Answer;
use support::workload::{Client, Ended};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a command that has to end by itself.
fn run(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    if wait_for_exit(&mut child, SOON).is_none() {
        let _ = child.kill();
        let output = child.wait_with_output().expect("its output");
        panic!("{command:?} did not end: {output:?}");
    }
    child.wait_with_output().expect("its output")
}

/// Asserts that the command is refused with one line on stderr, and gives that line.
fn refused(command: Command) -> String {
    let what = format!("{command:?}");
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).expect("text");
    let code = output.status.code();
    assert!(code.is_some_and(|c| c != 0), "{what}: exit code {code:?}");
    assert_eq!(stderr.lines().count(), 1, "{what}: stderr: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    stderr.trim_end().to_owned()
}

fn raft_example(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(RAFT_EXAMPLE);
    command.args(arguments).current_dir(directory);
    command
}

#[test]
fn wrong_arguments_are_refused_as_the_original_does() {
    let directory = tempfile::tempdir().expect("a directory");
    for (arguments, message) in [
        (vec![], "param num error"),
        (vec!["0", "1"], "param num error"),
        (vec!["-1"], "invalid node id"),
        (vec!["7"], "invalid node id"),
        (vec!["abc"], "invalid node id"),
        (vec!["3x"], "invalid node id"),
        (vec![""], "invalid node id"),
        (vec!["99999999999999999999999"], "invalid node id"),
    ] {
        let command = raft_example(directory.path(), &arguments);
        let output = run(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.trim_end(), message, "{arguments:?}");
        assert_eq!(output.status.code(), Some(255), "{arguments:?}");
    }
    let written = fs::read_dir(directory.path())
        .expect("the directory")
        .count();
    assert_eq!(written, 0, "a refused command left files behind");
}

#[test]
fn unknown_options_and_bad_values_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for arguments in [
        vec!["0", "--no-such-option"],
        vec!["0", "--cluster"],
        vec!["0", "--cluster", "missing.toml"],
        vec!["0", "--reactors", "many"],
        vec!["0", "--log-level", "loud"],
        vec!["0", "--snapshot-log-bytes", "-3"],
        vec!["0", "--log-rotate", "size=1M"],
        vec!["0", "--heartbeat-ms", "0"],
    ] {
        let line = refused(raft_example(directory.path(), &arguments));
        assert!(!line.is_empty(), "{arguments:?} is refused silently");
    }
}

#[test]
fn a_cluster_file_that_makes_no_sense_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cluster.toml");
    let node = |id: u64, peer: u16, client: u16| {
        format!(
            "[[node]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nclient = \"127.0.0.1:{client}\"\n"
        )
    };
    for (what, text) in [
        ("nothing", String::new()),
        ("not TOML", "[[node".to_owned()),
        (
            "an id twice",
            node(0, 1_001, 1_002) + &node(0, 1_003, 1_004),
        ),
        (
            "a port twice",
            node(0, 1_001, 1_002) + &node(1, 1_002, 1_003),
        ),
        (
            "not an address",
            "[[node]]\nid = 0\npeer = \"here\"\nclient = \"there\"\n".to_owned(),
        ),
        ("no such node", node(3, 1_001, 1_002)),
    ] {
        fs::write(&file, text).expect("written");
        let line = refused(raft_example(
            directory.path(),
            &["0", "--cluster", "cluster.toml"],
        ));
        assert!(!line.is_empty(), "{what}");
    }
}

/// A running three-node cluster, of which a second process of a node is tried.
struct Served {
    cluster: TestCluster,
}

impl Served {
    fn new() -> Served {
        let mut served = Served {
            cluster: TestCluster::with_leader(3, &[]),
        };
        served.still_serves();
        served
    }

    fn still_serves(&mut self) {
        self.cluster.assert_alive();
        let mut client = Client::new(self.cluster.clients());
        let ended = client.update("key", "value", TIMEOUT);
        assert_eq!(ended, Ended::Answered(Answer::Created));
    }
}

#[test]
fn a_second_process_on_a_data_directory_is_refused() {
    let mut served = Served::new();
    for node in served.cluster.ids() {
        let line = refused(served.cluster.command(node));
        assert!(!line.is_empty());
    }
    // With other ports, so that only the directory is shared.
    let other = TestClusterFile::with_free_ports(served.cluster.directory(), 3);
    let data = served.cluster.data_dir();
    let mut command = raft_example(served.cluster.directory(), &["0", "--cluster", &other.name]);
    command.arg("--data-dir").arg(&data);
    let line = refused(command);
    assert!(
        line.contains("raftnode_0"),
        "the line names the directory: {line}"
    );
    served.still_serves();
    // What the first process keeps can be started from.
    for node in served.cluster.ids() {
        served.cluster.terminate(node, Signal::TERM);
        served.cluster.start_and_wait(node);
    }
    served.cluster.wait_for_leader(SOON);
    served.still_serves();
}

/// A file of another cluster in the directory of a first one.
struct TestClusterFile {
    name: String,
    _ports: support::ports::Ports,
}

impl TestClusterFile {
    fn with_free_ports(directory: &Path, nodes: usize) -> TestClusterFile {
        let ports = support::ports::Ports::reserve(2 * nodes);
        let mut text = String::new();
        for (id, pair) in ports.addresses().chunks(2).enumerate() {
            let (peer, client) = (pair[0], pair[1]);
            text += &format!("[[node]]\nid = {id}\npeer = \"{peer}\"\nclient = \"{client}\"\n");
        }
        let name = "other.toml".to_owned();
        fs::write(directory.join(&name), text).expect("written");
        TestClusterFile {
            name,
            _ports: ports,
        }
    }
}

#[test]
fn a_port_in_use_is_refused_though_the_address_could_be_shared() {
    let mut served = Served::new();
    // The same ports, another data directory.
    let elsewhere = served.cluster.directory().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    for node in served.cluster.ids() {
        let mut command = raft_example(served.cluster.directory(), &[&node.to_string()]);
        command.args(["--cluster", "cluster.toml", "--data-dir"]);
        command.arg(&elsewhere);
        let line = refused(command);
        let port = served.cluster.peer(node).port().to_string();
        let client_port = served.cluster.client(node).port().to_string();
        assert!(
            line.contains(&port) || line.contains(&client_port),
            "the line names the port: {line}"
        );
    }
    served.still_serves();
}

#[test]
fn each_of_the_two_ports_is_looked_at() {
    let cluster = TestCluster::prepare(3, &[]);
    for port in [cluster.peer(0), cluster.client(0)] {
        let _other = TcpListener::bind(port).expect("the port is ours");
        fs::create_dir_all(cluster.data_dir()).expect("a directory");
        let line = refused(cluster.command(0));
        assert!(line.contains(&port.port().to_string()), "{line}");
    }
    // As another process would that allows the sharing, too.
    let shared =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    shared.set_reuse_port(true).expect("a flag");
    shared
        .bind(&cluster.client(0).into())
        .expect("the port is ours");
    shared.listen(1).expect("listening");
    let line = refused(cluster.command(0));
    assert!(
        line.contains(&cluster.client(0).port().to_string()),
        "{line}"
    );
}

/// All files below a directory, each with its length and a checksum of its content.
fn contents(directory: &Path) -> Vec<(std::path::PathBuf, usize, u32)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let content = fs::read(&path).expect("a file");
                found.push((path, content.len(), crc32fast::hash(&content)));
            }
        }
    }
    found.sort();
    found
}

/// A cluster that has run and holds data, none of it running.
fn stopped_cluster() -> TestCluster {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let mut client = Client::new(cluster.clients());
    let ended = client.put("key", "value", TIMEOUT);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    for node in cluster.ids() {
        let status = cluster.terminate(node, Signal::TERM);
        assert_eq!(status.code(), Some(0));
    }
    cluster
}

/// Asserts that the cluster comes back with what it held.
fn comes_back(mut cluster: TestCluster) {
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.wait_for_leader(SOON);
    let mut client = Client::new(cluster.clients());
    let ended = client.get("key", TIMEOUT);
    assert_eq!(ended, Ended::Answered(Answer::Value("value".into())));
}

#[test]
fn the_data_directory_of_another_node_or_cluster_is_refused() {
    let cluster = stopped_cluster();
    let (zero, one) = (cluster.node_dir(0), cluster.node_dir(1));
    let aside = cluster.data_dir().join("aside");
    fs::rename(&zero, &aside).expect("renamed");
    fs::rename(&one, &zero).expect("renamed");
    let before = contents(&zero);
    refused(cluster.command(0));
    assert_eq!(contents(&zero), before, "a foreign directory was changed");
    fs::rename(&zero, &one).expect("renamed");
    fs::rename(&aside, &zero).expect("renamed");

    let other = TestClusterFile::with_free_ports(cluster.directory(), 5);
    let mut command = raft_example(cluster.directory(), &["0", "--cluster", &other.name]);
    command.arg("--data-dir").arg(cluster.data_dir());
    // The log names the cluster and its members, so an edited file is told and does no harm.
    let log = cluster.directory().join("other.log");
    let output = fs::File::create(&log).expect("a file for the log");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    eventually("it warns of other addresses", SOON, || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains("other addresses than the cluster file")
            .then_some(())
    });
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    comes_back(cluster);
}

#[test]
fn a_directory_of_a_newer_version_is_refused() {
    let cluster = stopped_cluster();
    let meta = cluster.node_dir(0).join("meta");
    let kept = fs::read(&meta).expect("the meta file");
    let text = String::from_utf8(kept.clone()).expect("the meta file is text");
    let newer = text.replace("version 2\n", "version 99\n");
    assert_ne!(newer, text, "there is a line with the version");
    // What a newer version means is not known: a line that is refused says which it is. Nor is a meta
    // file overwritten that no version has written.
    for (changed, word) in [(newer.into_bytes(), "version 99"), (vec![0xFF; 90], "meta")] {
        fs::write(&meta, &changed).expect("written");
        let before = contents(&cluster.node_dir(0));
        let line = refused(cluster.command(0));
        assert!(line.contains(word), "{line}");
        assert_eq!(contents(&cluster.node_dir(0)), before, "it was changed");
    }
    fs::write(&meta, kept).expect("written");
    comes_back(cluster);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_refused() {
    // A file stands where the directory should be: that stops root as well, whom permissions do not.
    let cluster = TestCluster::prepare(3, &[]);
    fs::write(cluster.data_dir(), "a file").expect("written");
    let line = refused(cluster.command(0));
    assert!(line.contains("data"), "the line names the place: {line}");
    fs::remove_file(cluster.data_dir()).expect("removed");

    fs::create_dir(cluster.data_dir()).expect("a directory");
    fs::write(cluster.node_dir(0), "a file").expect("written");
    let line = refused(cluster.command(0));
    assert!(
        line.contains("raftnode_0"),
        "the line names the place: {line}"
    );
    assert_eq!(
        fs::read(cluster.node_dir(0)).expect("still there"),
        b"a file"
    );
    fs::remove_file(cluster.node_dir(0)).expect("removed");

    // A file system on which nobody may write, not even root.
    let mut elsewhere = raft_example(cluster.directory(), &["0", "--cluster", "cluster.toml"]);
    elsewhere.args(["--data-dir", "/proc"]);
    let line = refused(elsewhere);
    assert!(line.contains("/proc"), "the line names the place: {line}");

    if rustix::process::geteuid().is_root() {
        println!("permissions do not bind root: not tried");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    for mode in [0o000, 0o500] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(cluster.data_dir(), permissions).expect("ours");
        refused(cluster.command(0));
        let permissions = fs::Permissions::from_mode(0o700);
        fs::set_permissions(cluster.data_dir(), permissions).expect("ours");
    }
}

#[test]
fn it_ends_quickly_and_with_code_0_when_it_is_asked_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = TestCluster::with_leader(3, &[]);
        for node in cluster.ids() {
            let begin = Instant::now();
            let status = cluster.terminate(node, signal);
            assert_eq!(status.code(), Some(0), "node {node} on {signal:?}");
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(2), "node {node} took {took:?}");
        }
        cluster.assert_no_panic();
    }
}

#[test]
fn nothing_is_written_outside_of_the_data_directory() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let mut client = Client::new(cluster.clients());
    let ended = client.put("key", "value", TIMEOUT);
    assert_eq!(ended, Ended::Answered(Answer::Created));
    let own = [
        "cluster.toml",
        "data",
        "node_0.log",
        "node_1.log",
        "node_2.log",
    ];
    for entry in fs::read_dir(cluster.directory()).expect("the directory") {
        let name = entry.expect("an entry").file_name();
        assert!(own.iter().any(|o| name == *o), "{name:?} was written");
    }
    cluster.assert_alive();
    drop(cluster);

    // The working directory is the data directory unless another one is named.
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let _file = TestClusterFile::with_free_ports(directory.path(), 1);
    let mut child = raft_example(directory.path(), &["0", "--cluster", "other.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    support::eventually("the data directory", SOON, || {
        directory.path().join("raftnode_0").is_dir().then_some(())
    });
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

/// Set in the process that is to panic.
const PANIC: &str = "RAFTKV_TEST_PANIC";

#[test]
fn a_panic_in_any_thread_ends_the_process_with_the_log_written() {
    if std::env::var_os(PANIC).is_some() {
        let _log = logging::start(LogOptions::default()).expect("the first log");
        logging::abort_on_panic();
        log::info!(target: "Raft", "a line before");
        let raft = std::thread::Builder::new().name("raft".to_owned());
        let raft = raft.spawn(|| panic!("its state is broken"));
        let _ = raft.expect("a thread").join();
        // The others know nothing of it.
        loop {
            std::thread::park();
        }
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let test = "a_panic_in_any_thread_ends_the_process_with_the_log_written";
    command.args(["--exact", test, "--nocapture"]);
    command.env(PANIC, "1").env("RUST_BACKTRACE", "0");
    let output = run(command);
    assert!(!output.status.success());
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(stdout.contains("[info] a line before"), "{stdout}");
    let logged = stderr.lines().filter(|l| l.contains("stop: thread=raft"));
    let logged: Vec<&str> = logged.collect();
    assert!(
        logged.len() == 1 && logged[0].contains("its state is broken"),
        "{stderr}"
    );
}
