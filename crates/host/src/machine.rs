//! What this machine is, as its kernel tells: its processor, NUMA nodes and huge pages. Read once at the start; a kernel
//! that does not tell something leaves it out.

use std::{collections::BTreeMap, fs, path::Path};

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The maker of the processor, such as `AuthenticAMD`.
    pub vendor: String,
    /// What the maker calls it.
    pub model: String,
    /// What it can do beyond the least, such as `avx2`, sorted.
    pub features: Vec<String>,
    /// Sockets, cores of each, threads of each.
    pub topology: (u32, u32, u32),
    /// Its NUMA nodes, by number. A machine without any is one node.
    pub nodes: Vec<Node>,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// The numbers of its processors, sorted.
    pub cpus: Vec<u32>,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Huge pages: size in KiB to how many there are.
    pub pages: BTreeMap<u64, u64>,
}

impl Machine {
    /// What this machine is.
    pub fn here() -> Self {
        Self::read(Path::new("/"))
    }

    /// What a machine is whose `/proc` and `/sys` are in `root`.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let info = text("proc/cpuinfo");
        let mut machine = Self {
            vendor: field(&info, "vendor_id").to_owned(),
            model: field(&info, "model name").to_owned(),
            topology: topology(&info),
            ..Self::default()
        };
        let flags = match field(&info, "flags") {
            "" => field(&info, "Features"), // as ARM says it
            flags => flags,
        };
        machine.features = flags.split_whitespace().map(str::to_owned).collect();
        machine.features.sort_unstable();
        machine.features.dedup();
        let directory = root.join("sys/devices/system/node");
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok());
        machine.nodes = numbers.map(|id| node(&directory, id)).collect();
        machine.nodes.sort_unstable_by_key(|node| node.id);
        if machine.nodes.is_empty() {
            let cpus = numbers_of(text("sys/devices/system/cpu/online").trim()).unwrap_or_default();
            machine.nodes.push(Node {
                cpus,
                memory_bytes: kib(&text("proc/meminfo"), "MemTotal:") << 10,
                pages: pages(&root.join("sys/kernel/mm/hugepages")),
                id: 0,
            });
        }
        machine
    }
}

fn node(directory: &Path, id: u32) -> Node {
    let directory = directory.join(format!("node{id}"));
    let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    Node {
        id,
        cpus: numbers_of(text("cpulist").trim()).unwrap_or_default(),
        memory_bytes: kib(&text("meminfo"), "MemTotal:") << 10,
        pages: pages(&directory.join("hugepages")),
    }
}

/// How many huge pages of each size there are.
fn pages(directory: &Path) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name();
        let size = name
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let number = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        Some((size, number.trim().parse().ok()?))
    });
    sizes.filter(|(_, number)| *number > 0).collect()
}

/// The first value of a field of `/proc/cpuinfo`.
fn field<'t>(info: &'t str, name: &str) -> &'t str {
    let values = info.lines().filter_map(|line| line.split_once(':'));
    let mut values = values.filter(|(known, _)| known.trim() == name);
    values.next().map_or("", |(_, value)| value.trim())
}

/// An amount in a file such as `/proc/meminfo`.
fn kib(info: &str, name: &str) -> u64 {
    let amounts = info.lines().filter_map(|line| line.split_once(name));
    let mut amounts = amounts.filter_map(|(_, amount)| amount.trim().strip_suffix("kB")?.trim().parse().ok());
    amounts.next().unwrap_or(0)
}

fn topology(info: &str) -> (u32, u32, u32) {
    let number = |name: &str| field(info, name).parse::<u32>().unwrap_or(1).max(1);
    let mut sockets: Vec<&str> = info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() == "physical id")
        .map(|(_, id)| id.trim())
        .collect();
    sockets.sort_unstable();
    sockets.dedup();
    let cores = number("cpu cores");
    (sockets.len().max(1) as u32, cores, (number("siblings") / cores).max(1))
}

/// The numbers of a list such as `0-3,8`, sorted; none where it is not one.
///
/// ```
/// use madang_host::machine::numbers_of;
///
/// assert_eq!(numbers_of("4,0-2"), Some(vec![0, 1, 2, 4]));
/// assert_eq!(numbers_of("3-1"), None);
/// ```
pub fn numbers_of(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from > to || to > MOST {
            return None;
        }
        numbers.extend(from..=to);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// Above this no machine numbers its processors.
const MOST: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_what_its_kernel_says() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let processor = "vendor_id\t: GenuineIntel\nmodel name\t: Xeon: big\nphysical id\t: 1\nsiblings\t: 4\n\
                         cpu cores\t: 2\nflags\t\t: sse avx2 sse\n\n";
        write(
            "proc/cpuinfo",
            &format!("{processor}{}", processor.replace(": 1", ": 0")),
        );
        for id in [1, 0] {
            let node = format!("sys/devices/system/node/node{id}");
            write(&format!("{node}/cpulist"), &format!("{}-{},9\n", id * 4, id * 4 + 1));
            write(
                &format!("{node}/meminfo"),
                &format!("Node {id} MemTotal:       {} kB\n", 1024 + id),
            );
            write(
                &format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"),
                &format!("{}\n", id * 3),
            );
        }
        write("sys/devices/system/node/online", "0-1\n");
        let machine = Machine::read(root.path());
        assert_eq!(
            (machine.vendor.as_str(), machine.model.as_str()),
            ("GenuineIntel", "Xeon: big")
        );
        assert_eq!(
            (machine.features, machine.topology),
            (vec!["avx2".to_owned(), "sse".to_owned()], (2, 2, 2))
        );
        let expected = [
            (0, vec![0, 1, 9], 1024 << 10, vec![]),
            (1, vec![4, 5, 9], 1025 << 10, vec![(2048, 3)]),
        ];
        let found = machine.nodes.into_iter().map(|node| {
            let pages: Vec<(u64, u64)> = node.pages.into_iter().collect();
            (node.id, node.cpus, node.memory_bytes, pages)
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_machine_without_nodes_is_one() {
        let here = Machine::here();
        assert!(
            !here.nodes.is_empty()
                && here
                    .nodes
                    .iter()
                    .any(|node| !node.cpus.is_empty() && node.memory_bytes > 0)
        );
        let root = tempfile::tempdir().unwrap();
        let nowhere = Machine::read(root.path());
        assert_eq!((nowhere.nodes.len(), nowhere.topology), (1, (1, 1, 1)));
    }
}
