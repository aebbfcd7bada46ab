//! Single values of the naive evaluator, from the clauses of section 8 alone.

use std::net::IpAddr;

/// Trust domain, namespace, account of a name in the exact form.
pub(crate) fn five(name: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = name.strip_prefix("spiffe://")?.split('/').collect();
    let [domain, "ns", namespace, "sa", account] = parts[..] else { return None };
    (!domain.is_empty() && !namespace.is_empty() && !account.is_empty()).then_some((domain, namespace, account))
}

/// S-13, S-14; every other value is readable.
pub(crate) fn readable(name: &str, value: &str) -> bool {
    match name {
        "ports" | "<destination.port>" => value.parse::<u32>().is_ok_and(|port| port < 65536),
        "ipBlocks" | "remoteIpBlocks" | "<source.ip>" | "<remote.ip>" | "<destination.ip>" => {
            let (address, length) = value.split_once('/').unwrap_or((value, "0"));
            let address = address.split('%').next().unwrap().parse::<IpAddr>();
            address.is_ok_and(|address| {
                length.parse::<u32>().is_ok_and(|length| length <= if address.is_ipv4() { 32 } else { 128 })
            })
        }
        _ => true,
    }
}

/// S-49.
pub(crate) fn pattern(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        return !text.is_empty();
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return text.ends_with(end);
    }
    if let Some(start) = pattern.strip_suffix('*') {
        return text.starts_with(start);
    }
    pattern == text
}

/// Full match where every star stands for any text (or any text without `/`), by trying everything.
pub(crate) fn stars(pattern: &str, text: &str, within_segment: bool) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let (_, rest) = pattern.split_at(first.len_utf8());
    if first != '*' {
        return text.strip_prefix(first).is_some_and(|text| stars(rest, text, within_segment));
    }
    let mut tail = text;
    loop {
        if stars(rest, tail, within_segment) {
            return true;
        }
        match tail.chars().next() {
            Some(next) if !(within_segment && next == '/') => tail = tail.split_at(next.len_utf8()).1,
            _ => return false,
        }
    }
}

/// S-50, S-51.
pub(crate) fn principal(value: &str, name: &str) -> bool {
    if value.contains("spiffe://") {
        return false;
    }
    match name.strip_prefix("spiffe://") {
        Some(name) => pattern(value, name),
        None => value.starts_with('*') && pattern(value, name),
    }
}

/// S-54.
pub(crate) fn service_account(namespace: &str, account: &str, name: &str, ambient: bool) -> bool {
    if ambient {
        return five(name).is_some_and(|(_, ns, sa)| ns == namespace && sa == account);
    }
    let Some((domain, path)) = name.strip_prefix("spiffe://").and_then(|name| name.split_once('/')) else {
        return false;
    };
    let tail =
        path.strip_prefix("ns/").and_then(|path| path.strip_prefix(namespace)).and_then(|path| path.strip_prefix('/'));
    let Some(tail) = tail else { return false };
    let wanted = format!("sa/{account}");
    let ends = [wanted.clone(), format!("{wanted}/*"), format!("*/{wanted}"), format!("*/{wanted}/*")];
    !domain.is_empty() && ends.iter().any(|end| stars(end, tail, false))
}

/// S-55.
pub(crate) fn trust_domain(value: &str, name: &str) -> bool {
    match value {
        "*" => name.starts_with("spiffe://"),
        exact if !exact.contains('*') => name.starts_with(&format!("spiffe://{exact}/")),
        pattern => stars(&format!("spiffe://{pattern}/?"), &format!("{}/?", first_segment(name)), true),
    }
}

/// `spiffe://` and the first segment of a name that has further ones.
fn first_segment(name: &str) -> &str {
    name.match_indices('/').nth(2).map_or("", |(end, _)| name.split_at(end).0)
}

/// S-57, bit by bit.
pub(crate) fn block(value: &str, address: IpAddr) -> bool {
    if value.contains('%') {
        return false;
    }
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    let (network, length) = value.split_once('/').unwrap_or((value, "999"));
    let address = bits(match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    });
    let network = bits(network.parse().unwrap());
    network.len() == address.len()
        && network.iter().zip(&address).take(length.parse().unwrap()).all(|(one, other)| one == other)
}
