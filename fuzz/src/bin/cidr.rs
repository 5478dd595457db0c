//! Any bytes as the lists of who may connect: a list that is taken means what a slow reading of it says, and the rest is
//! refused with a caret below the text. The input is the allow list, the deny list and addresses, with NUL between them.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use oyez::address::{Network, networks};
use oyez::serve::{Rules, Source};
use oyez_fuzz::failure::check_address_error;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |&byte| byte == 0);
    let (allow, deny) = (parts.next().unwrap_or_default(), parts.next());
    let (allowed, denied) = (read(allow), deny.map(read));
    match Rules::read(Some(allow), deny) {
        Ok(rules) => {
            let allowed = allowed.expect("a list that was taken");
            let denied = denied.map_or(Vec::new(), |denied| denied.expect("a list that was taken"));
            check_unix(&rules, &allowed, &denied);
            let asked = parts.next().unwrap_or_default();
            let edges = allowed.iter().chain(&denied).flat_map(edges);
            edges.chain(asked.chunks(16).map(address)).for_each(|ip| check(&rules, &allowed, &denied, ip));
        }
        Err(fault) => {
            assert!(allowed.is_none() || denied.is_some_and(|denied| denied.is_none()));
            assert!(matches!(fault.list, "allow" | "deny"));
        }
    }
});

fn read(list: &[u8]) -> Option<Vec<Network>> {
    let read = networks(list);
    if let Err(error) = &read {
        check_address_error(error);
    }
    if let Ok(read) = &read {
        assert_eq!(read.len(), list.split(|&byte| byte == b',').count());
        for network in read {
            let Network::Internet(network) = network else { continue };
            assert_eq!(*network, network.trunc(), "bits behind the prefix");
            assert_eq!(networks(network.to_string().as_bytes()).unwrap(), [Network::Internet(*network)]);
        }
    }
    read.ok()
}

fn address(bytes: &[u8]) -> IpAddr {
    let mut word = [0; 16];
    word[..bytes.len()].copy_from_slice(bytes);
    match bytes.len() {
        0..=4 => IpAddr::from([word[0], word[1], word[2], word[3]]),
        _ => Ipv6Addr::from(word).into(),
    }
}

fn edges(network: &Network) -> Vec<IpAddr> {
    match network {
        Network::Unix => Vec::new(),
        Network::Internet(network) => vec![network.network(), network.broadcast()],
    }
}

/// The longest of a list's networks that has an address.
fn longest(list: &[Network], ip: IpAddr) -> Option<u8> {
    let fitting = list.iter().filter_map(|network| match network {
        Network::Internet(network) if network.contains(&ip) => Some(IpNet::prefix_len(network)),
        _ => None,
    });
    fitting.max()
}

fn check(rules: &Rules, allowed: &[Network], denied: &[Network], ip: IpAddr) {
    let ip = ip.to_canonical();
    let may = match (longest(allowed, ip), longest(denied, ip)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(allowed), Some(denied)) => allowed > denied,
    };
    assert_eq!(rules.admit(Source::of_ip(ip)), may, "{ip} {allowed:?} {denied:?}");
}

fn check_unix(rules: &Rules, allowed: &[Network], denied: &[Network]) {
    let may = allowed.contains(&Network::Unix) && !denied.contains(&Network::Unix);
    assert_eq!(rules.admit(Source::Unix), may);
}
