//! `raft_client` from outside: what it prints where, and its exit codes, against
//! nodes that say one thing.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use raftkv::pb::kv_operation_response::{Data, StatusCode};
use raftkv::pb::{ErrorCode, KvOperationResponse, MemberStatus, RaftRpcData, StatusResponse};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const MAGIC: u64 = 0x0A1B_2C3D_4E5F_6A7B;

fn frame(request: &RaftRpcData, payload: Vec<u8>) -> Vec<u8> {
    let body = RaftRpcData {
        payload_size: payload.len() as u32,
        payload_checksum: crc32fast::hash(&payload),
        payload: payload.into(),
        ..request.clone()
    }
    .encode_to_vec();
    let total = (16 + body.len()) as u32;
    let sum = crc32fast::hash(&[&MAGIC.to_le_bytes()[..], &total.to_le_bytes()].concat());
    let header = [
        &MAGIC.to_be_bytes()[..],
        &total.to_be_bytes(),
        &sum.to_be_bytes(),
    ];
    [header.concat(), body].concat()
}

fn receive(stream: &mut TcpStream) -> RaftRpcData {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let total = u32::from_be_bytes(header[8..12].try_into().unwrap());
    let mut body = vec![0; total as usize - 16];
    stream.read_exact(&mut body).unwrap();
    RaftRpcData::decode(&body[..]).unwrap()
}

/// A node that gives every request the same answer, and closes, as the original.
fn node(answer: &impl Message) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    serve(listener, answer);
    addr
}

fn serve(listener: TcpListener, answer: &impl Message) {
    let payload = answer.encode_to_vec();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = receive(&mut stream);
            let _ = stream.write_all(&frame(&request, payload.clone()));
        }
    });
}

fn answer(status: StatusCode, data: Option<Data>, code: ErrorCode) -> SocketAddr {
    node(&KvOperationResponse {
        status_code: status as i32,
        data,
        error_code: code as i32,
        ..KvOperationResponse::default()
    })
}

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn raft_client(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn at(addr: SocketAddr, args: &[&str]) -> Output {
    let addr = addr.to_string();
    raft_client(&[&["--timeout", "1", "--addr", &addr], args].concat())
}

#[track_caller]
fn expect(output: &Output, code: i32, stdout: &[u8]) {
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(stdout)
    );
    assert_eq!(output.stdout, stdout);
    assert_eq!(output.stderr.is_empty(), !stdout.is_empty(), "{shown}");
}

#[test]
fn results_are_printed_in_the_words_of_the_original() {
    let none = ErrorCode::None;
    let created = answer(StatusCode::Created, None, none);
    expect(&at(created, &["put", "k", "v"]), 0, b"success\n");
    expect(&at(created, &["update", "k", "-5"]), 0, b"success\n");
    expect(&at(created, &["remove", "k"]), 0, b"success\n");
    expect(&at(created, &["delete", "k"]), 0, b"success\n");
    let found = answer(
        StatusCode::Success,
        Some(Data::Payload(b"a \xff"[..].into())),
        none,
    );
    expect(&at(found, &["get", "k"]), 0, b"success: a \xff\n");
    expect(&at(found, &["get", "--raw", "k"]), 0, b"a \xff");
    let missing = answer(StatusCode::NotFound, None, none);
    expect(&at(missing, &["get", "k"]), 1, b"key not found\n");
    expect(&at(missing, &["remove", "k"]), 1, b"key not found\n");
    let failed = answer(StatusCode::InternalError, None, none);
    expect(
        &at(failed, &["put", "k", "v"]),
        1,
        b"internal error, operation failed\n",
    );
    let exists = answer(StatusCode::InternalError, None, ErrorCode::KeyExists);
    let text = b"internal error, operation failed: key already exists\n";
    expect(&at(exists, &["put", "k", "v"]), 1, text);
    let bad = answer(
        StatusCode::BadRequest,
        Some(Data::Reason("why".into())),
        none,
    );
    expect(&at(bad, &["get", "k"]), 1, b"bad request: why\n");
    expect(
        &at(bad, &["get", ""]),
        1,
        b"bad request: the key is empty\n",
    );
}

#[test]
fn a_redirect_is_told_and_followed_unless_told_otherwise_and_stdout_has_the_result_alone() {
    let leader = answer(StatusCode::Created, None, ErrorCode::None);
    let to = Some(Data::Address(leader.to_string()));
    let follower = answer(StatusCode::Redirect, to, ErrorCode::None);
    let line = format!("not leader, redirected to: {leader}\n");
    let refused = at(follower, &["--no-redirect", "put", "k", "v"]);
    expect(&refused, 1, b"");
    assert_eq!(String::from_utf8_lossy(&refused.stderr), line);
    let followed = at(follower, &["put", "k", "v"]);
    assert_eq!(followed.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "success\n");
    assert_eq!(String::from_utf8_lossy(&followed.stderr), line);

    let value = Some(Data::Payload(b"bytes\0".to_vec().into()));
    let leader = answer(StatusCode::Success, value, ErrorCode::None);
    let to = Some(Data::Address(leader.to_string()));
    let follower = answer(StatusCode::Redirect, to, ErrorCode::None);
    let raw = at(follower, &["get", "--raw", "k"]);
    assert_eq!(raw.stdout, b"bytes\0");
}

#[test]
fn on_a_terminal_a_redirect_is_printed_where_the_original_prints_it() {
    let leader = answer(StatusCode::Created, None, ErrorCode::None);
    let to = Some(Data::Address(leader.to_string()));
    let follower = answer(StatusCode::Redirect, to, ErrorCode::None);
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let its_end = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut client = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--addr", &follower.to_string(), "put", "k", "v"])
        .stdin(Stdio::null())
        .stdout(its_end.try_clone().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut complaints = String::new();
    let mut stderr = client.stderr.take().unwrap();
    stderr.read_to_string(&mut complaints).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert_eq!(complaints, "");
    // What was printed waits in the terminal for as long as somebody has it open.
    let expected = format!("not leader, redirected to: {leader}\r\nsuccess\r\n");
    fcntl_setfl(&terminal, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
    let (mut terminal, mut shown) = (File::from(terminal), Vec::new());
    let begin = Instant::now();
    while shown.len() < expected.len() {
        let mut piece = [0; 1000];
        match terminal.read(&mut piece) {
            Ok(length) => shown.extend_from_slice(&piece[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{shown:?}");
        thread::sleep(Duration::from_millis(1));
    }
    drop(its_end);
    assert_eq!(String::from_utf8_lossy(&shown), expected);
}

#[test]
fn an_address_that_does_not_resolve_is_a_warning_among_others() {
    let leader = answer(StatusCode::Created, None, ErrorCode::None).to_string();
    let both = ["--addr", "no port", "--addr", &leader, "put", "k", "v"];
    let output = raft_client(&both);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"success\n");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("warning: bad address `no port`"), "{told}");
    expect(&raft_client(&[&both[..2], &both[4..]].concat()), 2, b"");
}

#[test]
fn a_member_is_added_only_where_it_answers_itself() {
    let member = |id: u64, client: &str| MemberStatus {
        id,
        standing: "voter".into(),
        peer: "127.0.0.1:2".into(),
        client: client.into(),
        ..MemberStatus::default()
    };
    let leader = node(&StatusResponse {
        id: 5,
        role: "leader".into(),
        members: vec![member(5, "127.0.0.1:3")],
        ..StatusResponse::default()
    });
    let other = node(&StatusResponse {
        id: 7,
        ..StatusResponse::default()
    })
    .to_string();
    let output = at(leader, &["members", "add", "3", "127.0.0.1:1", &other]);
    let told = format!("refused: node 7 answers at client address {other}, not node 3;");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.starts_with(&told) && said.contains("--force"),
        "{said}"
    );

    let nobody = nobody().to_string();
    let output = at(
        leader,
        &["members", "replace", "5", "3", "127.0.0.1:1", &nobody],
    );
    assert_ne!(output.status.code(), Some(0));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let told = format!("node 3 does not answer at client address {nobody}: connection refused");
    assert!(said.contains(&told), "{said}");

    // What is a voter is no learner, and nothing is done about it.
    let words = [
        "members",
        "add",
        "--learner",
        "5",
        "127.0.0.1:2",
        "127.0.0.1:3",
    ];
    let output = at(leader, &words);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("n5 is a voter already"), "{said}");
}

#[test]
fn a_leader_whose_client_address_is_wrong_is_named_with_what_to_do() {
    let wrong = nobody().to_string();
    let follower = node(&StatusResponse {
        role: "follower".into(),
        term: 2,
        leader: 3,
        members: vec![MemberStatus {
            id: 3,
            standing: "voter".into(),
            client: wrong.clone(),
            ..MemberStatus::default()
        }],
        ..StatusResponse::default()
    });
    let output = at(follower, &["transfer", "0"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = format!("node 3 leads, but its client address {wrong} fails: connection refused");
    assert!(said.contains(&told) && said.contains("--addr"), "{said}");

    let output = at(follower, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = format!(
        "no leader: 1 of 2 nodes answer; node 3 leads by the word of others, and its client \
         address {wrong} fails: connection refused\n"
    );
    assert!(said.starts_with(&told), "{said}");
    assert!(
        said.contains(&format!("\n3   {wrong}  unreachable")),
        "{said}"
    );
}

#[test]
fn status_says_first_that_there_is_no_leader() {
    let follower = node(&StatusResponse {
        id: 1,
        role: "follower".into(),
        leader: -1,
        may_vote: true,
        ..StatusResponse::default()
    });
    let follower = follower.to_string();
    let args = [
        "--timeout",
        "2",
        "--addr",
        &follower,
        "--addr",
        &nobody().to_string(),
    ];
    let output = raft_client(&[&args[..], &["status"]].concat());
    assert_eq!(output.status.code(), Some(3));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = "no leader: 1 of 2 nodes answer; a majority is needed\nID ";
    assert!(table.starts_with(told), "{table}");

    let output = raft_client(&[&args[..], &["status", "--json"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stderr.starts_with(b"no leader: "));
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(nodes[0]["may_vote"], true);
    assert_eq!(nodes[0]["removed"], false);
}

#[test]
fn a_member_that_was_removed_leaves_the_status_of_its_cluster_file() {
    let removed = node(&StatusResponse {
        id: 1,
        role: "follower".into(),
        leader: -1,
        removed: true,
        ..StatusResponse::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let leader = listener.local_addr().unwrap();
    let says = StatusResponse {
        role: "leader".into(),
        members: vec![MemberStatus {
            client: leader.to_string(),
            standing: "voter".into(),
            ..MemberStatus::default()
        }],
        ..StatusResponse::default()
    };
    serve(listener, &says);
    let file = tempfile::NamedTempFile::new().unwrap();
    let table = |id: u64, client: SocketAddr| {
        format!("[[node]]\nid = {id}\npeer = \"127.0.0.1:{id}1\"\nclient = \"{client}\"\n")
    };
    let text = table(0, leader) + &table(1, removed);
    std::fs::write(&file, text).unwrap();
    let output = raft_client(&["--cluster", file.path().to_str().unwrap(), "status"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!shown.contains(&removed.to_string()), "{shown}");

    // Who asks it itself is told.
    let output = at(removed, &["status"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("node 1: removed"), "{shown}");
}

#[test]
fn a_value_can_come_from_stdin() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let seen = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = receive(&mut stream);
        // CREATED, as the original sends it.
        stream
            .write_all(&frame(&request, vec![0x08, 0xc9, 0x01]))
            .unwrap();
        raftkv::pb::KvOperationRequest::decode(request.payload)
            .unwrap()
            .value
    });
    let mut client = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--addr", &addr, "put", "k", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    client
        .stdin
        .take()
        .unwrap()
        .write_all(b"\x00\n\xff")
        .unwrap();
    assert!(client.wait().unwrap().success());
    assert_eq!(&seen.join().unwrap()[..], b"\x00\n\xff");
}

#[test]
fn wrong_usage_exits_with_2() {
    for (args, message) in [
        (&[][..], "invalid operation!\n"),
        (&["frobnicate", "k"], "invalid operation!\n"),
        (&["put", "k"], "invalid parameter!\n"),
        (&["put", "k", "v", "w"], "invalid parameter!\n"),
        (&["get"], "invalid parameter!\n"),
        (&["remove", "k", "v"], "invalid parameter!\n"),
        (&["status", "k"], "invalid parameter!\n"),
        (&["put", "--raw", "k", "v"], "invalid parameter!\n"),
    ] {
        let output = raft_client(args);
        expect(&output, 2, b"");
        assert_eq!(String::from_utf8_lossy(&output.stderr), message, "{args:?}");
    }
    for args in [
        &["--nonsense", "get", "k"][..],
        &["--timeout", "0", "get", "k"],
        &["--timeout", "nan", "get", "k"],
        &["--addr", "127.0.0.1", "get", "k"],
        &["--cluster", "/nonexistent", "get", "k"],
    ] {
        expect(&raft_client(args), 2, b"");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for option in ["--help", "--version"] {
        let output = raft_client(&[option]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("raft_client"));
    }
}

#[test]
fn a_cluster_that_is_not_there_exits_with_3_in_time_and_says_what_was_tried() {
    let addr = nobody();
    let start = Instant::now();
    let output = at(addr, &["get", "k"]);
    assert!(start.elapsed() < Duration::from_secs(3));
    expect(&output, 3, b"");
    let expected = format!("cluster not reachable: tried {addr}: connection refused\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);

    let reason = Some(Data::Reason("no leader".into()));
    let headless = answer(StatusCode::InternalError, reason, ErrorCode::NoLeader);
    let output = at(headless, &["put", "k", "v"]);
    expect(&output, 3, b"");
    let expected = format!("timed out: tried {headless}: no leader\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}

#[test]
fn status_shows_every_node_and_those_that_are_down() {
    let up = node(&StatusResponse {
        id: 3,
        role: "leader".into(),
        term: 4,
        leader: 3,
        commit_index: 9,
        applied_index: 7,
        first_index: 2,
        last_index: 9,
        incarnation: u64::MAX,
        ..StatusResponse::default()
    });
    let (up, down) = (up.to_string(), nobody().to_string());
    let args = ["--timeout", "2", "--addr", &up, "--addr", &down, "status"];

    let output = raft_client(&[&args[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0));
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let has = |n: usize, field: &str, value: serde_json::Value| {
        assert_eq!(nodes[n][field], value, "{field} of {n}");
    };
    for (field, value) in [
        ("id", 3),
        ("term", 4),
        ("leader", 3),
        ("commit_index", 9),
        ("applied_index", 7),
        ("first_index", 2),
        ("last_index", 9),
        ("snapshot_index", 0),
        ("lag", 2),
    ] {
        has(0, field, value.into());
    }
    has(0, "addr", up.as_str().into());
    has(0, "reachable", true.into());
    has(0, "role", "leader".into());
    has(0, "incarnation", "ffffffffffffffff".into());
    has(1, "addr", down.as_str().into());
    has(1, "reachable", false.into());
    has(1, "role", serde_json::Value::Null);
    has(1, "error", "connection refused".into());

    let output = raft_client(&args);
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[1][..10],
        ["3", &up, "leader", "4", "3", "9", "7", "2..9", "0", "2"]
    );
    assert_eq!(
        lines[2],
        ["-", &down, "unreachable", "(connection", "refused)"]
    );

    let nobody = at(nobody(), &["status"]);
    assert_eq!(nobody.status.code(), Some(3));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let value = Some(Data::Payload(vec![b'x'; 1 << 20].into()));
    let addr = answer(StatusCode::Success, value, ErrorCode::None).to_string();
    let mut client = Command::new(env!("CARGO_BIN_EXE_raft_client"))
        .args(["--addr", &addr, "get", "k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(client.stdout.take());
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
