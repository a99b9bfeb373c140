//! Names of nodes to addresses.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::client::ClientError;

/// Resolves `HOST:PORT` names, in order, by the system and in the time that takes. Returns the
/// addresses, and a [`ClientError::BadAddress`] for each name that has none.
#[must_use]
pub fn resolve<A: AsRef<str>>(names: &[A]) -> (Vec<SocketAddr>, Vec<ClientError>) {
    let (mut addrs, mut bad) = (Vec::new(), Vec::new());
    for name in names.iter().map(AsRef::as_ref) {
        let before = addrs.len();
        let reason = match name.to_socket_addrs() {
            Ok(found) => {
                addrs.extend(found);
                "the name has no address".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if addrs.len() == before {
            let addr = name.to_owned();
            bad.push(ClientError::BadAddress { addr, reason });
        }
    }
    (addrs, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_resolve_are_told_and_the_others_stay_in_order() {
        let (addrs, bad) = resolve(&["127.0.0.1:3", "127.0.0.1", "127.0.0.1:1"]);
        assert_eq!(
            addrs,
            [
                "127.0.0.1:3".parse().unwrap(),
                "127.0.0.1:1".parse().unwrap()
            ]
        );
        let [ClientError::BadAddress { addr, .. }] = &bad[..] else {
            panic!("{bad:?}");
        };
        assert_eq!(addr, "127.0.0.1");
    }
}
