//! What operators do: change the members, hand leadership over. A goal is pursued until
//! it is reached or its time is over: each step looks at what the leader says, and asks
//! for what is missing. So it may be begun anew after whatever went wrong.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::client::connection::{Connection, describe};
use crate::client::{NodeStatus, status_of};
use crate::limits::CAUGHT_UP_ENTRIES;
use crate::mem::Buffer;
use crate::net::envelope::encode_call;
use crate::pb::member_change::Kind;
use crate::pb::operator_response::Outcome;
use crate::pb::{
    ChangeMembersRequest, MemberChange, MemberStatus, OperatorResponse, StatusResponse,
    TransferLeadershipRequest,
};
use crate::proto::{CHANGE_MEMBERS, OPERATOR_SERVICE, TRANSFER_LEADERSHIP};

/// How long one look at the nodes takes at most: one that does not answer is not the leader.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait before the next step.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question to the leader takes at most. One that hangs is not asked for ever:
/// somebody else may lead by then.
const ASK: Duration = Duration::from_secs(5);

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A node is a member: a voter, or a learner if `learner`.
    Add {
        /// Which.
        id: u64,
        /// Where it listens for peers.
        peer: SocketAddr,
        /// Where it listens for clients.
        client: SocketAddr,
        /// Whether it stays without a vote.
        learner: bool,
        /// Whether it is added though it does not answer at `client`.
        force: bool,
    },
    /// A learner is a voter.
    Promote(u64),
    /// A voter is a learner.
    Demote(u64),
    /// A node is no member.
    Remove(u64),
    /// A node takes the place of another.
    Replace {
        /// Who goes.
        old: u64,
        /// Who comes.
        id: u64,
        /// Where it listens for peers.
        peer: SocketAddr,
        /// Where it listens for clients.
        client: SocketAddr,
        /// Whether it is added though it does not answer at `client`.
        force: bool,
    },
    /// A member is reached at other addresses.
    Move {
        /// The member.
        id: u64,
        /// Its address for peers.
        peer: SocketAddr,
        /// Its address for clients.
        client: SocketAddr,
    },
    /// A node leads.
    Lead(u64),
}

/// Why a goal was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The cluster says no. Final.
    #[error("{0}")]
    Refused(String),
    /// The time is over. What was begun may still come about; to ask for it again does no
    /// harm.
    #[error("timed out: {0}")]
    Timeout(String),
}

/// Pursues `goal` in the cluster that the nodes at `addrs` belong to. `progress` is told
/// what is being waited for.
///
/// # Errors
/// See [`OperatorError`].
pub fn pursue(
    addrs: &[SocketAddr],
    goal: &Goal,
    timeout: Duration,
    mut progress: impl FnMut(&str),
) -> Result<(), OperatorError> {
    let deadline = Instant::now() + timeout;
    let mut pursuit = Pursuit {
        known: addrs.to_vec(),
        deadline,
        begun: false,
        looks_until: None,
    };
    loop {
        let waiting_for = match pursuit.step(goal)? {
            Step::Reached => return Ok(()),
            Step::Waits(what) => what,
        };
        progress(&waiting_for);
        if Instant::now() + PAUSE >= deadline {
            return Err(OperatorError::Timeout(waiting_for));
        }
        thread::sleep(PAUSE);
    }
}

enum Step {
    Reached,
    /// For this.
    Waits(String),
}

struct Pursuit {
    /// Client addresses of nodes.
    known: Vec<SocketAddr>,
    deadline: Instant,
    /// Whether something was asked for already: then what looks like nothing to do is the
    /// success of it.
    begun: bool,
    /// Until when the node to be added may begin to answer at its client address.
    looks_until: Option<Instant>,
}

impl Pursuit {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The leader, and where it listens: of those who say that they lead, the one of the
    /// latest term. Otherwise the reason why there is none.
    fn leader(&mut self) -> Result<(SocketAddr, StatusResponse), String> {
        let asked = status_of(&self.known, LOOK.min(self.left()));
        let missing = why_no_leader(&asked);
        let said = asked
            .into_iter()
            .filter_map(|node| Some((node.addr, node.status.ok()?)));
        let said: Vec<(SocketAddr, StatusResponse)> = said.collect();
        for member in said.iter().flat_map(|(_, said)| &said.members) {
            if let Ok(addr) = member.client.parse()
                && !self.known.contains(&addr)
            {
                self.known.push(addr);
            }
        }
        let leaders = said.into_iter().filter(|(_, said)| said.role == "leader");
        leaders.max_by_key(|(_, said)| said.term).ok_or(missing)
    }

    fn step(&mut self, goal: &Goal) -> Result<Step, OperatorError> {
        let (addr, leader) = match self.leader() {
            Ok(found) => found,
            Err(why) => return Ok(Step::Waits(why)),
        };
        if let Goal::Lead(id) = goal {
            return self.step_to_lead(addr, &leader, *id);
        }
        if leader.members_index > leader.commit_index
            || leader.members.iter().any(|m| !is_settled(m))
        {
            return Ok(Step::Waits(
                "a change of the members is under way".to_owned(),
            ));
        }
        let changes = match self.missing(&leader, goal)? {
            Missing::Nothing => return Ok(Step::Reached),
            Missing::CatchUp(what) => return Ok(Step::Waits(what)),
            Missing::Changes(changes) => changes,
        };
        if adds_a_member(&changes)
            && let Some(wait) = self.look_at_client_address(goal)?
        {
            return Ok(wait);
        }
        let request = ChangeMembersRequest { changes };
        self.ask(addr, CHANGE_MEMBERS, &request)
    }

    /// What lacks to the goal in a cluster whose members are settled.
    fn missing(&self, leader: &StatusResponse, goal: &Goal) -> Result<Missing, OperatorError> {
        let member = |id: u64| leader.members.iter().find(|member| member.id == id);
        let votes = |id: u64| member(id).is_some_and(|m| m.standing == "voter");
        let refused = |reason: String| Err(OperatorError::Refused(reason));
        let unknown = |id: u64| refused(format!("n{id} is not a member"));
        let one = |kind, id| Ok(Missing::Changes(vec![change(kind, id)]));
        match *goal {
            Goal::Add {
                id,
                peer,
                client,
                learner,
                ..
            } => match member(id) {
                None => Ok(add(id, peer, client)),
                Some(known) if !lives_at(known, peer, client) => refused(format!(
                    "n{id} is a member already, at {} and {}",
                    known.peer, known.client
                )),
                Some(_) if learner && votes(id) => refused(format!(
                    "n{id} is a voter already; `members demote {id}` makes it a learner"
                )),
                Some(_) if learner || votes(id) => Ok(Missing::Nothing),
                Some(_) => Ok(promote(leader, id, None)),
            },
            Goal::Promote(id) if member(id).is_none() => unknown(id),
            Goal::Promote(id) if votes(id) => Ok(Missing::Nothing),
            Goal::Promote(id) => Ok(promote(leader, id, None)),
            Goal::Demote(id) if member(id).is_none() => unknown(id),
            Goal::Demote(id) if !votes(id) => Ok(Missing::Nothing),
            Goal::Demote(id) => one(Kind::Demote, id),
            Goal::Move { id, .. } if member(id).is_none() => unknown(id),
            Goal::Move { id, peer, client } => match member(id) {
                Some(known) if lives_at(known, peer, client) => Ok(Missing::Nothing),
                _ => Ok(at(change(Kind::Move, id), peer, client)),
            },
            Goal::Remove(id) if member(id).is_some() || leader.pending.contains(&id) => {
                one(Kind::Remove, id)
            }
            Goal::Remove(id) if !self.begun => unknown(id),
            Goal::Remove(_) => Ok(Missing::Nothing),
            Goal::Replace {
                old,
                id,
                peer,
                client,
                ..
            } => match (member(old), member(id)) {
                (None, Some(known)) if lives_at(known, peer, client) && votes(id) => {
                    Ok(Missing::Nothing)
                }
                (None, _) => unknown(old),
                (_, None) => Ok(add(id, peer, client)),
                (_, Some(known)) if !lives_at(known, peer, client) => refused(format!(
                    "n{id} is a member already, at {} and {}",
                    known.peer, known.client
                )),
                _ if votes(id) => one(Kind::Remove, old),
                _ => Ok(promote(leader, id, Some(old))),
            },
            Goal::Lead(_) => unreachable!("not a change of the members"),
        }
    }

    /// Asks the node to be added for its id, at the client address that the cluster would give
    /// to clients once that node leads. `None` if it is the one.
    ///
    /// A node that has just been started may need a moment; another id is refused at once.
    fn look_at_client_address(&mut self, goal: &Goal) -> Result<Option<Step>, OperatorError> {
        let (id, client) = match *goal {
            Goal::Add {
                id,
                client,
                force: false,
                ..
            }
            | Goal::Replace {
                id,
                client,
                force: false,
                ..
            } => (id, client),
            _ => return Ok(None),
        };
        let answers = status_of(&[client], LOOK.min(self.left()));
        let why = match answers.into_iter().next().map(|node| node.status) {
            Some(Ok(said)) if said.id == id => return Ok(None),
            Some(Ok(said)) => {
                return Err(OperatorError::Refused(format!(
                    "node {} answers at client address {client}, not node {id}; give the client \
                     address of node {id}, or --force to add it unchecked",
                    said.id
                )));
            }
            Some(Err(why)) => why,
            None => String::new(),
        };
        let until = *self.looks_until.get_or_insert_with(|| Instant::now() + ASK);
        if Instant::now() + PAUSE < until.min(self.deadline) {
            let wait = format!("node {id} does not answer at client address {client}: {why}");
            return Ok(Some(Step::Waits(wait)));
        }
        Err(OperatorError::Refused(format!(
            "node {id} does not answer at client address {client}: {why}; start it with --join, \
             correct the address, or add it unchecked with --force"
        )))
    }

    fn step_to_lead(
        &mut self,
        addr: SocketAddr,
        leader: &StatusResponse,
        id: u64,
    ) -> Result<Step, OperatorError> {
        if leader.id == id {
            return Ok(Step::Reached);
        }
        self.ask(
            addr,
            TRANSFER_LEADERSHIP,
            &TransferLeadershipRequest { to: id },
        )
    }

    /// Asks the leader. Whatever becomes of it but a refusal, the next look at the members
    /// tells.
    fn ask(
        &mut self,
        addr: SocketAddr,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<Step, OperatorError> {
        const SEQUENCE_ID: u64 = 1;
        self.begun = true;
        let mut frame = Buffer::default();
        encode_call(&mut frame, OPERATOR_SERVICE, method, SEQUENCE_ID, request);
        let deadline = self.deadline.min(Instant::now() + ASK);
        let reply = Connection::open(addr, deadline)
            .map_err(|error| describe(&error))
            .and_then(|mut connection| {
                let exchanged = connection.exchange(&frame, SEQUENCE_ID, deadline);
                exchanged.map_err(|failure| failure.reason)
            });
        let reply = match reply {
            Ok(reply) => reply,
            Err(reason) => return Ok(Step::Waits(format!("{addr}: {reason}"))),
        };
        let Ok(response) = OperatorResponse::decode(reply.payload) else {
            return Ok(Step::Waits(format!("{addr}: an undecodable answer")));
        };
        match Outcome::try_from(response.outcome) {
            Ok(Outcome::Refused) => Err(OperatorError::Refused(response.reason)),
            Ok(Outcome::Redirect) => Ok(Step::Waits(format!("the leader is {}", response.address))),
            Ok(Outcome::Done) => Ok(Step::Waits("the next step".to_owned())),
            _ => Ok(Step::Waits(response.reason)),
        }
    }
}

enum Missing {
    Nothing,
    /// This has to be waited for.
    CatchUp(String),
    Changes(Vec<MemberChange>),
}

fn adds_a_member(changes: &[MemberChange]) -> bool {
    changes
        .iter()
        .any(|change| change.kind == i32::from(Kind::AddLearner))
}

/// The reason why none of these nodes leads, in the words of an operator: a leader that they
/// name and that cannot be asked, else those that do not answer.
fn why_no_leader(asked: &[NodeStatus]) -> String {
    let said = asked.iter().filter_map(|node| node.status.as_ref().ok());
    let named = said
        .filter_map(|said| {
            let leader = u64::try_from(said.leader).ok()?;
            let member = said.members.iter().find(|member| member.id == leader)?;
            Some((said.term, leader, &member.client))
        })
        .max_by_key(|(term, ..)| *term);
    if let Some((_, leader, client)) = named {
        let found = asked.iter().find(|node| node.addr.to_string() == *client);
        let why = match found.map(|node| &node.status) {
            Some(Err(why)) => why.as_str(),
            // Known from now on, or another node is there.
            _ => return format!("node {leader} leads, client address {client}"),
        };
        return format!(
            "node {leader} leads, but its client address {client} fails: {why}; give the address \
             where it listens with --addr, or stop it so that another node leads"
        );
    }
    let mut text = "no leader is known".to_owned();
    for node in asked {
        if let Err(why) = &node.status {
            text += &format!("; {}: {why}", node.addr);
        }
    }
    text
}

fn is_settled(member: &MemberStatus) -> bool {
    matches!(member.standing.as_str(), "voter" | "learner" | "entering")
}

fn lives_at(member: &MemberStatus, peer: SocketAddr, client: SocketAddr) -> bool {
    member.peer.parse() == Ok(peer) && member.client.parse() == Ok(client)
}

fn change(kind: Kind, id: u64) -> MemberChange {
    MemberChange {
        kind: kind.into(),
        id,
        ..MemberChange::default()
    }
}

fn add(id: u64, peer: SocketAddr, client: SocketAddr) -> Missing {
    at(change(Kind::AddLearner, id), peer, client)
}

fn at(change: MemberChange, peer: SocketAddr, client: SocketAddr) -> Missing {
    Missing::Changes(vec![MemberChange {
        peer: peer.to_string(),
        client: client.to_string(),
        ..change
    }])
}

/// Gives a learner its vote, in the place of `old` if it takes one, once it has caught up.
fn promote(leader: &StatusResponse, id: u64, old: Option<u64>) -> Missing {
    let peer = leader.peers.iter().find(|peer| peer.id == id);
    let matched = peer.map_or(0, |peer| peer.match_index);
    let behind = leader.last_index.saturating_sub(matched);
    if behind > CAUGHT_UP_ENTRIES || peer.is_none_or(|peer| peer.state != "replicate") {
        let how = match peer {
            Some(peer) if !peer.connected => "not connected",
            Some(peer) if peer.state == "snapshot" => "receives a snapshot",
            _ => "catches up",
        };
        return Missing::CatchUp(format!(
            "n{id} has {matched} of {} entries ({how})",
            leader.last_index
        ));
    }
    let mut changes = vec![change(Kind::Promote, id)];
    changes.extend(old.map(|old| change(Kind::Remove, old)));
    Missing::Changes(changes)
}
