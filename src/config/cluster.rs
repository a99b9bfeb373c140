//! The members of the cluster and its id.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use uuid::Uuid;

use crate::types::NodeId;

/// How many nodes the default cluster has.
const DEFAULT_NODES: u16 = 7;
/// The peer port of the default cluster's node 0; node N has this plus 2 N.
const DEFAULT_PEER_PORT: u16 = 4396;
/// The client port of the default cluster's node 0; node N has this plus 2 N.
const DEFAULT_CLIENT_PORT: u16 = 4397;

/// The name space of cluster ids: fixed for ever, for the ids are on disk.
const CLUSTER_ID_NAMESPACE: Uuid = Uuid::from_u128(0x8d2f_6e43_57b1_4c0a_9a3e_1f0c_5b7d_2e64);

/// When a new directory founds a cluster by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// Every first member is connected and has a new directory; the lowest id founds. Safe
    /// whichever directories were lost.
    AllFirstMembers,
    /// A majority of the first members is connected and new; the lowest of them founds, the
    /// lowest first member at once. For the built-in cluster: if a majority of its
    /// directories is lost, it is founded anew.
    Majority,
    /// Never: it was not one of the first members, or the operator founds.
    Never,
}

/// One node of the cluster and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, unique in the cluster.
    pub id: NodeId,
    /// Where the other nodes reach it.
    pub peer: SocketAddr,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// Who has the highest steps up first when there is no leader.
    pub priority: u8,
}

/// The first members of the cluster, in the order of their ids; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    members: Vec<Member>,
}

impl Default for Cluster {
    /// Nodes 0 to 6 on this machine: peers on `4396 + 2 N`, clients on `4397 + 2 N`. Node 0
    /// leads first.
    fn default() -> Cluster {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Cluster {
            members: (0..DEFAULT_NODES)
                .map(|n| Member {
                    id: NodeId(u64::from(n)),
                    peer: at(DEFAULT_PEER_PORT + 2 * n),
                    client: at(DEFAULT_CLIENT_PORT + 2 * n),
                    priority: u8::from(n == 0),
                })
                .collect(),
        }
    }
}

impl Cluster {
    /// A cluster of these members.
    ///
    /// # Errors
    ///
    /// There are none, or two share an id or an address: the reason, and the place
    /// in `members` of the one to blame.
    pub fn new(mut members: Vec<Member>) -> Result<Cluster, (Option<usize>, String)> {
        if members.is_empty() {
            return Err((None, "no [[node]]: a cluster needs at least one".into()));
        }
        for (at, member) in members.iter().enumerate() {
            check_member(member, &members[..at]).map_err(|reason| (Some(at), reason))?;
        }
        members.sort_by_key(|member| member.id);
        Ok(Cluster { members })
    }

    /// This cluster with one member more, which has to fit.
    ///
    /// # Errors
    ///
    /// The reason why it does not.
    pub fn check_joiner(&self, joiner: &Member) -> Result<(), String> {
        check_member(joiner, &self.members)
    }

    /// All members in the order of their ids.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Names this cluster on disk and between nodes: the first eight bytes, big
    /// endian, of the UUID v5 of one line `ID=PEER\n` a member in the order of
    /// their ids, in a name space of our own. It is kept in every data directory,
    /// so it must not change between releases; client addresses are no part of it.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        let mut name = String::new();
        for member in &self.members {
            // Writing to a string cannot fail.
            let _ = writeln!(name, "{}={}", member.id.0, member.peer);
        }
        Uuid::new_v5(&CLUSTER_ID_NAMESPACE, name.as_bytes())
            .as_u64_pair()
            .0
    }
}

fn check_member(member: &Member, before: &[Member]) -> Result<(), String> {
    if before.iter().any(|other| other.id == member.id) {
        return Err(format!("id {} is given twice", member.id.0));
    }
    for addr in [member.peer, member.client] {
        if addr.port() == 0 || addr.ip().is_unspecified() {
            return Err(format!(
                "`{addr}`: others have to reach it, give a real ip and port"
            ));
        }
        let taken = before.iter().flat_map(|other| [other.peer, other.client]);
        if taken.into_iter().any(|other| other == addr) {
            return Err(format!("address {addr} is given twice"));
        }
    }
    if member.peer == member.client {
        return Err(format!("address {} is given twice", member.peer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_cluster_has_the_ports_of_the_original() {
        let cluster = Cluster::default();
        assert_eq!(cluster.members().len(), 7);
        let six = cluster.member(NodeId(6)).unwrap();
        assert_eq!(six.peer.to_string(), "127.0.0.1:4408");
        assert_eq!(six.client.to_string(), "127.0.0.1:4409");
        assert_eq!(cluster.member(NodeId(7)), None);
        assert_eq!(Cluster::new(cluster.members().to_vec()), Ok(cluster));
    }

    /// The id is in every data directory: if this fails, nodes refuse their data.
    #[test]
    fn cluster_id_never_changes_between_releases() {
        assert_eq!(Cluster::default().cluster_id(), 0xa275_a24e_859d_5736);
    }

    #[test]
    fn cluster_id_depends_on_ids_and_peer_addresses_only() {
        let members = Cluster::default().members().to_vec();
        let id_of = |members| Cluster::new(members).unwrap().cluster_id();
        let id = id_of(members.clone());

        let mut reversed = members.clone();
        reversed.reverse();
        assert_eq!(id_of(reversed), id);

        let mut other_client = members.clone();
        other_client[3].client.set_port(9999);
        assert_eq!(id_of(other_client), id);

        let mut other_peer = members.clone();
        other_peer[3].peer.set_port(9999);
        assert_ne!(id_of(other_peer), id);
        assert_ne!(id_of(members[..6].to_vec()), id);
    }
}
