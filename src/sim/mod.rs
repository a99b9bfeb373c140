//! What the deterministic simulator is made of.
//!
//! [`linearizability`] judges what clients saw, whether the cluster was simulated
//! or made of real processes: it knows nothing of Raft, only of keys, values and
//! moments. Imports the layers below L5, and never `server`.

pub mod linearizability;
