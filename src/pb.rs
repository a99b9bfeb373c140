//! The messages of `proto/*.proto`, as prost generates them. Only [`crate::proto`]
//! turns them into domain types, and so validates what a remote sent.
#![allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/ww.rs"));
