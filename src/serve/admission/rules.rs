//! The allow and deny lists.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Source;
use crate::address::{self, Network};
use crate::error::Result;

/// What the lists say of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Allow,
    Deny,
}

/// Both lists as one: the longest network that has an address decides, and of two that are the same it is the denial.
#[derive(Debug, Default)]
pub struct Rules {
    ipv4: PrefixMap<Ipv4Net, Rule>,
    ipv6: PrefixMap<Ipv6Net, Rule>,
    unix: Option<Rule>,
    /// There is an allow list: who is on no list is not on that one.
    selective: bool,
}

impl Rules {
    /// Reads the lists; one that is not there says nothing.
    pub fn read(allow: Option<&[u8]>, deny: Option<&[u8]>) -> std::result::Result<Self, RuleFault> {
        let mut rules = Self { selective: allow.is_some(), ..Self::default() };
        let allowed = allow.map_or_else(|| Ok(Vec::new()), address::networks);
        let denied = deny.map_or_else(|| Ok(Vec::new()), address::networks);
        let mut add = |networks: Result<Vec<Network>>, list, rule| {
            networks
                .map_err(|error| RuleFault { list, error })?
                .into_iter()
                .for_each(|network| rules.add(network, rule));
            Ok(())
        };
        add(allowed, "allow", Rule::Allow)?;
        add(denied, "deny", Rule::Deny)?;
        Ok(rules)
    }

    fn add(&mut self, network: Network, rule: Rule) {
        match network {
            Network::Unix => self.unix = Some(rule),
            Network::Internet(IpNet::V4(network)) => drop(self.ipv4.insert(network, rule)),
            Network::Internet(IpNet::V6(network)) => drop(self.ipv6.insert(network, rule)),
        }
    }

    /// Whether that client may stay. One whose address the kernel did not tell may not.
    pub fn admit(&self, source: Source) -> bool {
        let rule = match source {
            Source::Unknown => return false,
            Source::Unix => self.unix,
            Source::Internet(IpAddr::V4(ip)) => self.ipv4.get_lpm(&ip.into()).map(|(_, rule)| *rule),
            Source::Internet(IpAddr::V6(ip)) => self.ipv6.get_lpm(&ip.into()).map(|(_, rule)| *rule),
        };
        rule.map_or(!self.selective, |rule| rule == Rule::Allow)
    }
}

/// What is wrong with a list, and with which.
#[derive(Debug)]
pub struct RuleFault {
    /// `allow` or `deny`.
    pub list: &'static str,
    /// What is wrong with it.
    pub error: crate::error::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: Option<&str>, deny: Option<&str>) -> Rules {
        Rules::read(allow.map(str::as_bytes), deny.map(str::as_bytes)).unwrap()
    }

    fn admitted(rules: &Rules, ip: &str) -> bool {
        rules.admit(Source::Internet(ip.parse().unwrap()))
    }

    #[test]
    fn the_longest_network_decides_and_a_denial_wins_a_tie() {
        let rules = rules(Some("10.0.0.0/8,10.1.2.3,::1"), Some("10.1.0.0/16,10.9.9.9,::1"));
        let expected = [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("10.9.9.9", false),
            ("11.0.0.1", false),
            ("::1", false),
            ("::2", false),
        ];
        for (ip, may) in expected {
            assert_eq!(admitted(&rules, ip), may, "{ip}");
        }
        assert!(!rules.admit(Source::Unix) && !rules.admit(Source::Unknown));
    }

    #[test]
    fn one_list_alone() {
        let none = rules(None, None);
        assert!(admitted(&none, "10.0.0.1") && none.admit(Source::Unix));
        let denied = rules(None, Some("10.0.0.0/8,unix"));
        assert!(!admitted(&denied, "10.0.0.1") && admitted(&denied, "11.0.0.1"));
        assert!(!denied.admit(Source::Unix) && !denied.admit(Source::Unknown));
        let allowed = rules(Some("unix"), None);
        assert!(allowed.admit(Source::Unix) && !admitted(&allowed, "::1"));
    }

    #[test]
    fn everything_of_one_family() {
        let rules = rules(Some("0.0.0.0/0"), Some("128.0.0.0/1"));
        assert!(admitted(&rules, "127.255.255.255") && !admitted(&rules, "128.0.0.0") && !admitted(&rules, "::1"));
    }

    #[test]
    fn a_fault_names_the_list() {
        let fault = Rules::read(Some(b"10.0.0.0/8"), Some(b"10.0.0.0/8,x")).unwrap_err();
        assert_eq!(fault.list, "deny");
    }
}
