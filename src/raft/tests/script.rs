//! Runs golden scripts: text files of commands and of what they bring about.
//!
//! A block is comments, commands, a line `---`, and the effects up to an empty line.
//! A command in parentheses runs silently. `UPDATE_GOLDEN=1` writes the effects anew
//! instead of comparing them. Commands:
//!
//! | command | does |
//! |---|---|
//! | `cluster nodes=3 [first=1] [spare=1] [preferred=n1] [lease=1] [term=1] [seed=1] [level=1] [unborn=1] [timeless=1]` | begins; spare nodes are no members; of an unborn cluster all directories are new; timeless as `src/explore` has it |
//! | `found n1` | founds an unborn cluster |
//! | `introduce n1 n2 [voter]`, `disconnect n1->n2` | n2 introduces itself to n1; its directory was a voter; the connection ends |
//! | `restore n2 log=[1@1 2@1] [term=2] [vote=n1]` | a node with that disk |
//! | `autosync on\|off` | whether writes are durable at once |
//! | `sync n1 [count]` | writes reach the disk |
//! | `tick n1 [10ms]` | the clock moves (to the node's deadline by default); that node ticks |
//! | `advance 10ms` | the clock moves, nobody notices |
//! | `run 500ms [loss=20]` | time passes for all; the network loses so many in a hundred, repeats as many, and reorders |
//! | `elect n1 [votes=n2,n3]` | times out, hears only these voters, all disks in time |
//! | `deliver/drop/duplicate/reverse [n1->n2] [n1->*] [kind] [first\|last\|nth=2]` | messages on their way |
//! | `settle` | delivers until nothing is on its way |
//! | `propose n1 x [count=3] [size=100]`, `read n1 1 2 3`, `read-anywhere n2 4` | clients |
//! | `change n1 add:n4 promote:n4 demote:n2 remove:n3 move:n2`, `transfer n1->n2` | operators |
//! | `forget n2`, `disk n1 3000ms` | what a node learns of its leader's connection, of its disk |
//! | `crash n1`, `restart n1 [lost]` | with the loss of what is not synced; of all |
//! | `compact n1 5`, `snapshot n1->n2`, `give-up n1->n2` | snapshots |
//! | `unreachable n1->n2` | what a node learns of a peer |
//! | `isolate n1`, `partition n1,n2`, `heal` | links; messages on their way arrive still |
//! | `inject n2->n1 t5 vote\|vote-reply\|prevote\|heartbeat\|append\|snapshot\|timeout-now [last=1@1] [from-life=1] [to-life=1]` | a message of nobody's making |
//! | `status [n1]`, `members [n1]`, `log [n1]`, `progress n1`, `pool` | looks |
//! | `agree` | up to where each has committed; that logs match is checked |
//! | `sent` | how many messages were sent since the last look, by kind |
//!
//! `leader` in place of a node is whoever leads the latest term. `*` means all nodes
//! after `crash` and `restart`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::{BIRTH, Cluster, Disk, Start, whole_snapshot};
use super::show;
use crate::raft::{Body, Change, Message, ReadId};
use crate::types::{Entry, EntryId, HardState, Index, NodeId, Payload, Server, Term};

/// Runs a script and returns it with the effects as they are.
pub(super) fn run(script: &str) -> String {
    let mut runner = Runner::default();
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        if line != "---" {
            out += &format!("{line}\n");
        }
        runner.command(line.trim());
        if line == "---" {
            while lines.next_if(|line| !line.is_empty()).is_some() {}
        }
        let ends = lines.peek().is_none_or(|line| line.is_empty());
        if ends && (line == "---" || runner.ran) {
            out += "---\n";
            let effects = std::mem::take(&mut runner.effects);
            if effects.is_empty() {
                out += "ok\n";
            }
            effects.iter().for_each(|line| out += &format!("{line}\n"));
            runner.ran = false;
        }
    }
    out
}

/// Compares all scripts of a folder with what they bring about.
pub(super) fn check_folder(folder: &Path) {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the folder of the scripts") {
        let path = file.expect("a file").path();
        println!("{}", path.display()); // Shown if it panics.
        let script = std::fs::read_to_string(&path).expect("a script");
        let actual = run(&script);
        count += 1;
        if update {
            std::fs::write(&path, actual).expect("a script that can be written");
        } else if actual != script {
            wrong.push(first_difference(&path, &script, &actual));
        }
    }
    assert!(count > 0, "there are scripts");
    assert!(
        wrong.is_empty(),
        "see what changed with UPDATE_GOLDEN=1 and git diff\n{}",
        wrong.join("\n")
    );
}

fn first_difference(path: &Path, expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let at = (0..old.len().max(new.len())).find(|i| old.get(*i) != new.get(*i));
    let at = at.unwrap_or_default();
    let line = |lines: &[&str]| lines.get(at).copied().unwrap_or("(end)").to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}:{}\n  - {}\n  + {}", at + 1, line(&old), line(&new))
}

/// The arguments of a command.
struct Args {
    plain: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Args {
    /// Splits at blanks, but not inside of brackets.
    fn parse(line: &str) -> Args {
        let mut words = vec![String::new()];
        let mut depth = 0;
        for c in line.chars() {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                ' ' if depth == 0 => words.push(String::new()),
                c => words.last_mut().expect("a word").push(c),
            }
        }
        let mut args = Args {
            plain: Vec::new(),
            named: BTreeMap::new(),
        };
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some((key, value)) => {
                    args.named.insert(key.to_owned(), value.to_owned());
                }
                None => args.plain.push(word),
            }
        }
        args
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.named
            .get(key)
            .map_or(default, |value| value.parse().expect("a number"))
    }

    fn node(&self, at: usize) -> NodeId {
        node(&self.plain[at])
    }

    fn link(&self) -> (NodeId, NodeId) {
        let (from, to) = self.plain[0].split_once("->").expect("n1->n2");
        (node(from), node(to))
    }

    fn duration(&self, at: usize) -> Option<Duration> {
        let word = self.plain.get(at)?;
        let millis = word.strip_suffix("ms").expect("a time in ms");
        Some(Duration::from_millis(millis.parse().expect("a number")))
    }

    fn entry_id(&self, key: &str) -> EntryId {
        self.named.get(key).map_or(EntryId::ZERO, |id| entry_id(id))
    }
}

fn node(word: &str) -> NodeId {
    let number = word.strip_prefix('n').and_then(|id| id.parse().ok());
    NodeId(number.unwrap_or_else(|| panic!("not a node: {word}")))
}

fn nodes(list: &str) -> Vec<NodeId> {
    list.split(',').map(node).collect()
}

fn entry_id(word: &str) -> EntryId {
    let (index, term) = word.split_once('@').expect("index@term");
    EntryId::new(
        term.parse().expect("a term"),
        index.parse().expect("an index"),
    )
}

#[derive(Default)]
struct Runner {
    cluster: Option<Cluster>,
    effects: Vec<String>,
    ran: bool,
}

impl Runner {
    fn command(&mut self, line: &str) {
        if line.is_empty() || line.starts_with('#') || line == "---" {
            return;
        }
        self.ran = true;
        let silent = line.strip_prefix('(').and_then(|l| l.strip_suffix(')'));
        let (name, rest) = silent
            .unwrap_or(line)
            .split_once(' ')
            .unwrap_or((silent.unwrap_or(line), ""));
        let mut args = Args::parse(rest);
        if let Some(leader) = self.cluster.as_ref().and_then(Cluster::leader) {
            for word in &mut args.plain {
                match word.strip_prefix("leader") {
                    Some(rest) if rest.is_empty() || rest.starts_with("->") => {
                        *word = format!("{leader}{rest}");
                    }
                    _ => {}
                }
            }
        }
        if name == "cluster" {
            self.cluster = Some(Cluster::new(&Start {
                first: args.number("first", 1),
                nodes: args.number("nodes", 3),
                spare: args.number("spare", 0),
                preferred: args.named.get("preferred").map(|id| node(id)),
                lease: args.number("lease", 0) == 1,
                term: args.number("term", u64::from(!args.named.contains_key("unborn"))),
                level: args.number("level", 1),
                unborn: args.number("unborn", 0) == 1,
                timeless: args.number("timeless", 0) == 1,
                seed: args.number("seed", 1),
            }));
            return;
        }
        let cluster = self.cluster.as_mut().expect("a cluster to begin with");
        if !(messages(cluster, name, &args)
            || faults(cluster, name, &args)
            || clients_and_time(cluster, name, &args)
            || operators(cluster, name, &args)
            || looks(cluster, name, &args))
        {
            panic!("unknown command: {line}");
        }
        let effects = std::mem::take(&mut cluster.out);
        if silent.is_none() {
            self.effects.extend(effects);
        }
    }
}

/// Takes the messages that the arguments choose out of the pool.
fn choose(cluster: &mut Cluster, args: &Args) -> Vec<Message> {
    let chosen = |message: &Message| {
        args.plain.iter().all(|word| match word.split_once("->") {
            Some((from, to)) => {
                (from == "*" || node(from) == message.from.id)
                    && (to == "*" || node(to) == message.to.id)
            }
            None => word == "first" || word == "last" || word == show::kind(&message.body),
        })
    };
    let (mut these, mut others): (Vec<_>, Vec<_>) = std::mem::take(&mut cluster.pool)
        .into_iter()
        .partition(chosen);
    if args.plain.iter().any(|word| word == "first") {
        others.extend(these.drain(1.min(these.len())..));
    } else if let Some(nth) = args.named.get("nth") {
        let nth: usize = nth.parse().expect("a number");
        let chosen = (nth <= these.len()).then(|| these.remove(nth - 1));
        others.append(&mut these);
        these.extend(chosen);
    } else if args.plain.iter().any(|word| word == "last") {
        let last = these.pop();
        others.append(&mut these);
        these.extend(last);
    }
    cluster.pool = others;
    these
}

fn messages(cluster: &mut Cluster, name: &str, args: &Args) -> bool {
    match name {
        "deliver" => choose(cluster, args)
            .into_iter()
            .for_each(|message| cluster.deliver(message)),
        "drop" => drop(choose(cluster, args)),
        "duplicate" => {
            let chosen = choose(cluster, args);
            cluster.pool.extend(chosen.iter().cloned());
            cluster.pool.extend(chosen);
        }
        "reverse" => {
            let mut chosen = choose(cluster, args);
            chosen.reverse();
            cluster.pool.append(&mut chosen);
        }
        "settle" => cluster.settle(),
        "inject" => inject(cluster, args),
        _ => return false,
    }
    true
}

fn inject(cluster: &mut Cluster, args: &Args) {
    let (from, to) = args.link();
    let last = args.entry_id("last");
    let body = match args.plain[2].as_str() {
        "vote" => Body::Vote {
            last,
            transfer: false,
        },
        "vote-reply" => Body::VoteReply { granted: true },
        "prevote" => Body::PreVote { last },
        "heartbeat" => Body::Heartbeat {
            last: Index::ZERO,
            commit: Index(args.number("commit", 0)),
            round: 1,
            lease: false,
            state: None,
        },
        "timeout-now" => Body::TimeoutNow,
        "append" => Body::Append {
            prev: args.entry_id("prev"),
            entries: args
                .named
                .get("last")
                .map(|_| entry(last))
                .into_iter()
                .collect(),
            commit: Index(args.number("commit", 0)),
        },
        "snapshot" => Body::Snapshot(whole_snapshot(last, cluster.first_members(to))),
        other => panic!("cannot inject: {other}"),
    };
    let term = args.plain[1].strip_prefix('t').and_then(|t| t.parse().ok());
    let life = |cluster: &Cluster, id: NodeId, name: &str| {
        let now = cluster.server(id).incarnation.0;
        Server::new(id.0, args.number(name, now))
    };
    cluster.deliver(Message {
        birth: BIRTH,
        from: life(cluster, from, "from-life"),
        to: life(cluster, to, "to-life"),
        term: Term(term.expect("a term")),
        call: 0,
        lost_directory: false,
        body,
    });
}

fn faults(cluster: &mut Cluster, name: &str, args: &Args) -> bool {
    match name {
        "restore" => restore(cluster, args),
        "autosync" => cluster.autosync = args.plain[0] == "on",
        "sync" => {
            let count = args
                .plain
                .get(1)
                .map_or(usize::MAX, |n| n.parse().expect("a count"));
            cluster.sync(args.node(0), count);
        }
        "crash" | "restart" => {
            let ids = match args.plain[0].as_str() {
                "*" => cluster.ids(),
                list => nodes(list),
            };
            for id in ids {
                match name {
                    "crash" => cluster.crash(id),
                    _ => cluster.restart(id, args.plain.len() > 1),
                }
            }
        }
        "compact" => cluster.compact(
            args.node(0),
            Index(args.plain[1].parse().expect("an index")),
        ),
        "snapshot" => cluster.send_snapshot(args.link().0, args.link().1),
        "give-up" => {
            let (at, of) = args.link();
            let of = cluster.server(of);
            cluster.act(at, |raft, _| raft.give_up_snapshot(of));
        }
        "unreachable" => {
            let (at, of) = args.link();
            cluster.act(at, |raft, _| raft.peer_unreachable(of));
        }
        "isolate" | "partition" => {
            let side = nodes(&args.plain[0]);
            for a in cluster.ids() {
                for b in cluster.ids() {
                    if side.contains(&a) != side.contains(&b) {
                        cluster.cut.insert((a, b));
                    }
                }
            }
        }
        "heal" => cluster.cut.clear(),
        _ => return false,
    }
    true
}

/// The command that entries of scripts carry: a letter for the term, and the index.
fn entry(id: EntryId) -> Entry {
    let name = format!("{}{}", (b'a' + id.term.0 as u8 - 1) as char, id.index);
    let payload = Payload::Command(Bytes::from(name));
    Entry { id, payload }
}

fn restore(cluster: &mut Cluster, args: &Args) {
    let log = args.named.get("log").map_or("", String::as_str);
    let entries: Vec<Entry> = log
        .split_whitespace()
        .map(|word| entry(entry_id(word)))
        .collect();
    let last = entries.last().map_or(1, |entry| entry.id.term.0);
    let disk = Disk {
        hard_state: HardState {
            term: Term(args.number("term", last)),
            voted_for: args.named.get("vote").map(|id| Server::new(node(id).0, 1)),
        },
        entries,
        ..Disk::default()
    };
    cluster.restore(args.node(0), disk);
}

fn clients_and_time(cluster: &mut Cluster, name: &str, args: &Args) -> bool {
    match name {
        "tick" => match args.duration(1) {
            Some(time) => cluster.tick_later(args.node(0), time),
            None => cluster.time_out(args.node(0)),
        },
        "advance" => cluster.now += args.duration(0).expect("a time"),
        "run" => cluster.run(args.duration(0).expect("a time"), args.number("loss", 0)),
        "elect" => elect(cluster, args),
        "propose" => {
            let (id, size) = (args.node(0), args.number("size", 0) as usize);
            let count = args.number("count", 1);
            for i in 1..=count {
                let mut name = args.plain[1].clone();
                if count > 1 {
                    name += &i.to_string();
                }
                let mut bytes = name.into_bytes();
                bytes.resize(bytes.len().max(size), b'.');
                let payload = Payload::Command(Bytes::from(bytes));
                let outcome = cluster.act(id, |raft, _| raft.propose(payload));
                if let Some(Err(error)) = outcome {
                    cluster.out.push(format!("{id} refuses: {error}"));
                }
            }
        }
        "read" => {
            let reads = read_ids(&args.plain[1..]);
            cluster.read_all(args.node(0), &reads, false);
        }
        "read-anywhere" => {
            let reads = read_ids(&args.plain[1..]);
            cluster.read_all(args.node(0), &reads, true);
        }
        _ => return false,
    }
    true
}

fn read_ids(words: &[String]) -> Vec<ReadId> {
    let number = |word: &String| word.parse().expect("a number");
    words.iter().map(|word| ReadId(number(word))).collect()
}

fn operators(cluster: &mut Cluster, name: &str, args: &Args) -> bool {
    match name {
        "change" => {
            let id = args.node(0);
            let changes: Vec<Change> = args.plain[1..].iter().map(|word| change(word)).collect();
            for change in &changes {
                let is_new = matches!(change, Change::AddLearner { .. });
                if is_new && cluster.nodes.contains_key(&change.id()) {
                    cluster.introduce(id, change.id(), false);
                }
            }
            let outcome = cluster.act(id, |raft, now| raft.propose_change(now, &changes));
            if let Some(Err(error)) = outcome {
                cluster.out.push(format!("{id} refuses: {error}"));
            }
        }
        "found" => {
            let id = args.node(0);
            let first_members = cluster.nodes[&id].config.first_members.clone();
            cluster.act(id, |raft, now| raft.found(now, &first_members));
        }
        "introduce" => {
            let was_voter = args.plain.len() > 2;
            cluster.introduce(args.node(0), args.node(1), was_voter);
        }
        "disconnect" => {
            let (at, peer) = args.link();
            cluster.act(at, |raft, _| raft.forget_introduction(peer));
        }
        "transfer" => {
            let (id, to) = args.link();
            let outcome = cluster.act(id, |raft, now| raft.transfer_leadership(now, to));
            if let Some(Err(error)) = outcome {
                cluster.out.push(format!("{id} refuses: {error}"));
            }
        }
        "forget" => drop(cluster.act(args.node(0), |raft, _| raft.forget_leader())),
        "disk" => {
            let disk = args.duration(1).expect("a time");
            cluster.act(args.node(0), |raft, now| {
                raft.note_disk(now, Duration::ZERO, disk)
            });
        }
        _ => return false,
    }
    true
}

fn change(word: &str) -> Change {
    let (kind, id) = word.split_once(':').expect("add:n4");
    let id = node(id);
    match kind {
        "add" => Change::AddLearner {
            id,
            peer: format!("p{}", id.0),
            client: format!("c{}", id.0),
        },
        "promote" => Change::Promote(id),
        "demote" => Change::Demote(id),
        "remove" => Change::Remove(id),
        "move" => Change::Move {
            id,
            peer: format!("p{}", id.0 + 100),
            client: format!("c{}", id.0 + 100),
        },
        other => panic!("not a change: {other}"),
    }
}

/// An election that only `votes` take part in; what else it sends gets lost.
fn elect(cluster: &mut Cluster, args: &Args) {
    let id = args.node(0);
    let all = cluster.ids();
    let voters = args.named.get("votes").map_or(all, |list| nodes(list));
    let of_election = |m: &Message| {
        (m.from.id == id || m.to.id == id) && {
            let kind = show::kind(&m.body);
            kind.starts_with("vote") || kind.starts_with("prevote")
        }
    };
    cluster.time_out(id);
    for _ in 0..6 {
        cluster.sync(id, usize::MAX);
        voters.iter().for_each(|v| cluster.sync(*v, usize::MAX));
        let (these, others): (Vec<_>, Vec<_>) = std::mem::take(&mut cluster.pool)
            .into_iter()
            .partition(of_election);
        cluster.pool = others;
        for message in these {
            if voters.contains(&message.to.id) || voters.contains(&message.from.id) {
                cluster.deliver(message);
            }
        }
    }
}

fn looks(cluster: &mut Cluster, name: &str, args: &Args) -> bool {
    let ids = args.plain.first().map_or(cluster.ids(), |list| nodes(list));
    match name {
        "pool" => {
            let lines = cluster.pool.iter().map(show::message);
            cluster.out.extend(lines);
        }
        "agree" => {
            cluster.check_log_matching();
            let mut reached = BTreeMap::<Index, String>::new();
            for raft in ids.iter().filter_map(|id| cluster.raft(*id)) {
                let list = reached.entry(raft.commit_index()).or_default();
                *list += &format!(" {}", raft.id());
            }
            let lines = reached.iter().rev();
            let lines: Vec<String> = lines
                .map(|(at, list)| format!("up to {at}:{list}"))
                .collect();
            cluster.out.extend(lines);
        }
        "sent" => {
            let sent = std::mem::take(&mut cluster.sent).into_iter();
            let list: Vec<String> = sent
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            cluster.out.push(list.join(", "));
        }
        "status" | "members" | "log" | "progress" => {
            for id in ids {
                let line = match (cluster.raft(id), name) {
                    (None, _) => format!("{id} is down"),
                    (Some(raft), "log") => {
                        let log = raft.log();
                        let list = show::entries(log.range(log.first_index(), log.last().index));
                        let stable = log.stable();
                        format!("{id} base={} {list} stable={stable}", log.base())
                    }
                    (Some(raft), "members") => {
                        let (at, members) = (raft.configuration_index(), raft.configuration());
                        format!("{id} since {at}: {}", show::configuration(members))
                    }
                    (Some(raft), "status") => format!(
                        "{id} t{} {} leader={} last={} commit={}",
                        raft.term(),
                        raft.role().as_str(),
                        raft.leader().map_or("-".to_owned(), |l| l.to_string()),
                        raft.log().last(),
                        raft.commit_index()
                    ),
                    (Some(raft), _) => {
                        let list = raft.followers().into_iter().flatten().map(|(peer, p)| {
                            let (at, next) = (p.match_index, p.next_index);
                            let peer = show::server(*peer);
                            format!("{peer}: {:?} match={at} next={next}", p.state)
                        });
                        format!("{id} {}", list.collect::<Vec<_>>().join("; "))
                    }
                };
                cluster.out.push(line);
            }
        }
        _ => return false,
    }
    true
}
