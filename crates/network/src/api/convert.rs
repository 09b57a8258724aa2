//! From the JSON of a request to values that fit an attribute, refused in the words of Neutron's validators.

use std::net::IpAddr;

use ipnet::IpNet;
use madang_http::{parse_bool, python_repr};
use serde_json::{Map, Value};

use super::tags::MAX_TAGS;
use crate::{AllocationPool, FixedIp, HostRoute, port::mac};

/// Reads one attribute: its value, normalized, or why it does not fit.
pub(crate) type Convert = fn(&Value) -> Result<Value, String>;

/// Neutron's `NAME_FIELD_SIZE`, `DESCRIPTION_FIELD_SIZE`, in characters.
const TEXT: usize = 255;
/// The most items of any list in a request.
const ITEMS: usize = 512;

/// Any text of up to 255 characters.
pub(crate) fn text(value: &Value) -> Result<Value, String> {
    let Some(text) = value.as_str() else {
        return Err(format!("{} is not a valid string", quoted(value)));
    };
    if text.chars().count() > TEXT {
        return Err(format!("'{text}' exceeds maximum length of {TEXT}"));
    }
    Ok(value.clone())
}

/// As [`text`], or null.
pub(crate) fn text_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() { Ok(Value::Null) } else { text(value) }
}

/// A boolean in any of its spellings.
pub(crate) fn flag(value: &Value) -> Result<Value, String> {
    let read = match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => parse_bool(text),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    };
    read.map(Value::Bool)
        .ok_or_else(|| format!("{} cannot be converted to boolean", quoted(value)))
}

/// A UUID.
pub(crate) fn uuid(value: &Value) -> Result<Value, String> {
    let is_uuid = value
        .as_str()
        .is_some_and(|text| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok());
    if is_uuid {
        Ok(value.clone())
    } else {
        Err(format!("{} is not a valid UUID", quoted(value)))
    }
}

/// A UUID or null; the empty text is null, too.
pub(crate) fn uuid_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() || value.as_str() == Some("") {
        Ok(Value::Null)
    } else {
        uuid(value)
    }
}

/// A whole number, also as text.
pub(crate) fn number(value: &Value) -> Result<Value, String> {
    let read = value
        .as_i64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    read.map(Value::from)
        .ok_or_else(|| format!("{} is not an integer", quoted(value)))
}

/// As [`number`], or null.
pub(crate) fn number_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        Ok(Value::Null)
    } else {
        number(value)
    }
}

/// A MAC address.
pub(crate) fn mac_address(value: &Value) -> Result<Value, String> {
    let read = value.as_str().and_then(mac::parse);
    read.map(Value::from)
        .ok_or_else(|| format!("{} is not a valid MAC address", quoted(value)))
}

/// An address or null.
pub(crate) fn ip_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() { Ok(Value::Null) } else { ip(value) }
}

/// An address.
pub(crate) fn ip(value: &Value) -> Result<Value, String> {
    read_ip(value).map(|ip| Value::from(ip.to_string()))
}

fn read_ip(value: &Value) -> Result<IpAddr, String> {
    let read = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    read.ok_or_else(|| format!("{} is not a valid IP address", quoted(value)))
}

/// A range of addresses.
pub(crate) fn cidr(value: &Value) -> Result<Value, String> {
    read_cidr(value).map(|net| Value::from(net.to_string()))
}

/// As [`cidr`], or null. One address is a range of itself.
pub(crate) fn cidr_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() || value.as_str() == Some("") {
        Ok(Value::Null)
    } else {
        cidr(value)
    }
}

fn read_cidr(value: &Value) -> Result<IpNet, String> {
    let text = value.as_str();
    let net = text.and_then(|text| {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    });
    net.ok_or_else(|| format!("{} is not a valid IP subnet", quoted(value)))
}

/// A list of subnets, host bits dropped.
pub(crate) fn prefixes(value: &Value) -> Result<Value, String> {
    let nets = list(value)?.iter().map(read_cidr).collect::<Result<Vec<_>, _>>()?;
    Ok(nets
        .into_iter()
        .map(|net| Value::from(net.trunc().to_string()))
        .collect())
}

/// A list of texts.
pub(crate) fn texts(value: &Value) -> Result<Value, String> {
    list(value)?
        .iter()
        .map(text)
        .collect::<Result<Vec<_>, _>>()
        .map(Value::from)
}

/// A list of UUIDs without repetition.
pub(crate) fn uuids(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let ids = list(value)?.iter().map(uuid).collect::<Result<Vec<_>, _>>()?;
    if ids.iter().enumerate().any(|(at, id)| ids[..at].contains(id)) {
        return Err(format!("Duplicate items in the list: '{}'", joined(&ids)));
    }
    Ok(Value::from(ids))
}

fn joined(items: &[Value]) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// Name servers: a list of addresses without repetition, or null.
pub(crate) fn name_servers(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let bad = |_| format!("{} is not a valid nameserver", quoted(value));
    let servers = list(value)?
        .iter()
        .map(|item| ip(item).map_err(bad))
        .collect::<Result<Vec<_>, _>>()?;
    match servers
        .iter()
        .enumerate()
        .find(|(at, server)| servers[..*at].contains(server))
    {
        Some((_, twice)) => Err(format!("Duplicate nameserver {}", quoted(twice))),
        None => Ok(Value::from(servers)),
    }
}

/// `[{"start": …, "end": …}]`.
pub(crate) fn pools(value: &Value) -> Result<Value, String> {
    let pool = |item: &Value| {
        let members = only(item, &["start", "end"])?;
        let (Some(start), Some(end)) = (members.get("start"), members.get("end")) else {
            return Err(format!("Invalid data format for IP pool: {}", quoted(item)));
        };
        Ok(AllocationPool {
            start: read_ip(start)?,
            end: read_ip(end)?,
        })
    };
    let pools = list(value)?.iter().map(pool).collect::<Result<Vec<_>, _>>()?;
    serde_json::to_value(pools).map_err(|e| e.to_string())
}

/// `[{"destination": …, "nexthop": …}]` without repetition, or null.
pub(crate) fn routes(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let route = |item: &Value| {
        let members = only(item, &["destination", "nexthop"])?;
        let (Some(destination), Some(nexthop)) = (members.get("destination"), members.get("nexthop")) else {
            return Err(format!("Invalid data format for hostroute: {}", quoted(item)));
        };
        Ok(HostRoute {
            destination: read_cidr(destination)?.trunc(),
            nexthop: read_ip(nexthop)?,
        })
    };
    let routes = list(value)?.iter().map(route).collect::<Result<Vec<_>, _>>()?;
    if routes
        .iter()
        .enumerate()
        .any(|(at, route)| routes[..at].contains(route))
    {
        return Err(format!("Duplicate hostroute in {}", quoted(value)));
    }
    serde_json::to_value(routes).map_err(|e| e.to_string())
}

/// `[{"subnet_id": …, "ip_address": …}]` where either may be left out; open parts become empty and unspecified.
pub(crate) fn fixed_ips(value: &Value) -> Result<Value, String> {
    let fixed = |item: &Value| {
        let members = only(item, &["subnet_id", "ip_address"])?;
        let given = |name: &str| members.get(name).filter(|value| !value.is_null());
        let subnet_id = given("subnet_id").map(uuid).transpose()?;
        let ip_address = given("ip_address").map(read_ip).transpose()?;
        if subnet_id.is_none() && ip_address.is_none() {
            return Err("IP allocation requires subnet_id or ip_address".to_owned());
        }
        let subnet_id = subnet_id
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        Ok(FixedIp {
            subnet_id,
            ip_address: ip_address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
        })
    };
    let ips = list(value)?.iter().map(fixed).collect::<Result<Vec<_>, _>>()?;
    let twice = |at: usize, ip: &FixedIp| !ip.ip_address.is_unspecified() && ips[..at].contains(ip);
    if let Some((_, ip)) = ips.iter().enumerate().find(|(at, ip)| twice(*at, ip)) {
        return Err(format!("Duplicate IP address '{}'", ip.ip_address));
    }
    serde_json::to_value(ips).map_err(|e| e.to_string())
}

/// `[{"ip_address": …, "mac_address": …}]`.
pub(crate) fn address_pairs(value: &Value) -> Result<Value, String> {
    let pair = |item: &Value| {
        let members = only(item, &["ip_address", "mac_address"])?;
        let Some(address) = members.get("ip_address") else {
            return Err("AllowedAddressPair must contain ip_address".to_owned());
        };
        let mac = members
            .get("mac_address")
            .filter(|mac| !mac.is_null())
            .map(mac_address)
            .transpose()?;
        let mut pair = Map::new();
        pair.insert("ip_address".to_owned(), Value::from(read_cidr(address)?.to_string()));
        pair.insert("mac_address".to_owned(), mac.unwrap_or(Value::Null));
        Ok(Value::Object(pair))
    };
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    list(value)
        .map_err(|_| "Allowed address pairs must be a list.".to_owned())?
        .iter()
        .map(pair)
        .collect()
}

/// `[{"opt_name": …, "opt_value": …, "ip_version": 4}]`: a value of null takes an option away. No name comes twice for
/// one version.
pub(crate) fn dhcp_options(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let mut seen = Vec::new();
    let mut options = Vec::new();
    for item in list(value)? {
        let members = only(item, &["opt_name", "opt_value", "ip_version"])?;
        let name = members.get("opt_name").and_then(Value::as_str).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(format!("{} has no opt_name that can be used", quoted(item)));
        }
        let given = members.get("opt_value").unwrap_or(&Value::Null);
        if given.as_str().is_some_and(|text| text.is_empty() || text.len() > 255)
            || !(given.is_null() || given.is_string())
        {
            return Err(format!("{} is not a valid opt_value", quoted(given)));
        }
        let version = members.get("ip_version").map_or(Ok(Value::from(4)), number)?;
        if !matches!(version.as_i64(), Some(4 | 6)) {
            return Err(format!("{} is not in [4, 6]", quoted(&version)));
        }
        if seen.contains(&(name, version.clone())) {
            return Err(format!("Duplicate DHCP option '{name}'"));
        }
        seen.push((name, version.clone()));
        let mut option = Map::new();
        option.insert("opt_name".to_owned(), Value::from(name));
        option.insert("opt_value".to_owned(), given.clone());
        option.insert("ip_version".to_owned(), version);
        options.push(Value::Object(option));
    }
    Ok(Value::Array(options))
}

/// An object or null.
pub(crate) fn object_or_null(value: &Value) -> Result<Value, String> {
    match value {
        Value::Null | Value::Object(_) => Ok(value.clone()),
        other => Err(format!("{} is not a dictionary", quoted(other))),
    }
}

/// A MAC address, or null for one that is given.
pub(crate) fn mac_address_or_null(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        Ok(Value::Null)
    } else {
        mac_address(value)
    }
}

/// A list of tags, each counted once.
pub(crate) fn tags(value: &Value) -> Result<Value, String> {
    let mut tags = list(value)?.iter().map(tag).collect::<Result<Vec<_>, _>>()?;
    tags.sort_by_key(Value::to_string);
    tags.dedup();
    if tags.len() > MAX_TAGS {
        return Err(format!("'tags' exceeds maximum length of {MAX_TAGS}"));
    }
    Ok(Value::Array(tags))
}

/// Tags: texts of up to 60 characters each.
pub(crate) fn tag(value: &Value) -> Result<Value, String> {
    match value.as_str() {
        Some("") => Err("'' is blank".to_owned()),
        Some(text) if text.chars().count() > 60 => Err(format!("'{text}' exceeds maximum length of 60")),
        Some(_) => Ok(value.clone()),
        None => Err(format!("{} is not a valid string", quoted(value))),
    }
}

/// One of a few texts.
pub(crate) fn one_of(value: &Value, words: &[&str]) -> Result<Value, String> {
    if value.as_str().is_some_and(|text| words.contains(&text)) {
        return Ok(value.clone());
    }
    let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    Err(format!("{} is not in [{}]", quoted(value), words.join(", ")))
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("{} is not a list", quoted(value)))?;
    if items.len() > ITEMS {
        Err(format!(
            "a list of {} items is too long, {ITEMS} is the most",
            items.len()
        ))
    } else {
        Ok(items)
    }
}

/// An object with no other members than these.
fn only<'v>(value: &'v Value, names: &[&str]) -> Result<&'v Map<String, Value>, String> {
    let members = value
        .as_object()
        .ok_or_else(|| format!("{} is not a dictionary", quoted(value)))?;
    match members.keys().find(|name| !names.contains(&name.as_str())) {
        Some(extra) => Err(format!("Unexpected keys supplied: {extra}")),
        None => Ok(members),
    }
}

/// A value as Neutron puts it into its messages.
pub(crate) fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        other => format!("'{}'", python_repr(other)),
    }
}
