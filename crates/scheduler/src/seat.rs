//! Seats: what a guest has of single NUMA nodes of its host, to itself. Pure.
//!
//! Who asks for dedicated processors, NUMA nodes or pages of a size is given a seat for each of its own nodes: a node of
//! the host, which processors of it, how many pages. What is given is kept with the claim and counted at commit, so that
//! no processor is ever given twice. Source: Nova's `hw:cpu_policy`, `hw:numa_*`, `hw:mem_page_size`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Cell, ClaimSpec, MEMORY_MB, PCPU, VCPU};

/// What one node of a guest has of a node of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The host's node, by number.
    pub cell: u32,
    /// Processors of the host, one for each of the guest's in this node; none where they are shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// The size of its pages in KiB, and how many; none where they are the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<(u64, u64)>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seating {
    /// Processors and MiB of each of the guest's nodes.
    pub nodes: Vec<(usize, u64)>,
    /// Each processor is its own.
    pub is_dedicated: bool,
    /// The pages it wants.
    pub pages: Option<Pages>,
}

/// Pages beyond the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The largest that the memory divides into.
    Large,
    /// Of so many KiB.
    Kib(u64),
}

/// What is taken of a host's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Processors, and by how many claims: two while one hands over to another.
    pub cpus: BTreeMap<u32, u32>,
    /// By node and size in KiB, pages.
    pub pages: BTreeMap<(u32, u64), u64>,
}

impl Occupied {
    /// Counts seats that are taken, or free again.
    pub fn count(&mut self, seats: &[Seat], is_more: bool) {
        for seat in seats {
            for cpu in &seat.cpus {
                let claims = self.cpus.entry(*cpu).or_default();
                *claims = if is_more { *claims + 1 } else { claims.saturating_sub(1) };
            }
            if let Some((kib, number)) = seat.pages {
                let taken = self.pages.entry((seat.cell, kib)).or_default();
                *taken = if is_more {
                    *taken + number
                } else {
                    taken.saturating_sub(number)
                };
            }
        }
        self.cpus.retain(|_, claims| *claims > 0);
        self.pages.retain(|_, number| *number > 0);
    }
}

impl Seating {
    /// What a claim asks for; none where any processors and pages will do.
    pub fn of(spec: &ClaimSpec) -> Option<Self> {
        let wishes = spec.wishes.as_deref()?;
        let wish = |name: &str| {
            let flavor = wishes.extra_specs.get(&format!("hw:{name}"));
            flavor.or_else(|| wishes.image_properties.get(&format!("hw_{name}")))
        };
        let is_dedicated = wish("cpu_policy").is_some_and(|policy| policy == "dedicated");
        let by_image = wishes.image_properties.get("hw_mem_page_size");
        let size = match wishes.extra_specs.get("hw:mem_page_size").map(String::as_str) {
            // The image may choose then.
            Some(open @ ("large" | "any")) => Some(by_image.map_or(open, String::as_str)),
            said => said,
        };
        let pages = size.and_then(pages);
        let count: Option<usize> = wish("numa_nodes").and_then(|count| count.parse().ok());
        if !is_dedicated && pages.is_none() && count.is_none() {
            return None;
        }
        let amount = |class: &str| spec.resources.get(class).unwrap_or(0).unsigned_abs();
        let cpus = (amount(VCPU) + amount(PCPU)) as usize;
        let count = count.unwrap_or(1).clamp(1, cpus.max(1));
        let nodes = (0..count).map(|node| {
            let own_cpus = wish(&format!("numa_cpus.{node}")).and_then(|list| Some(numbers(list)?.len()));
            let own_memory = wish(&format!("numa_mem.{node}")).and_then(|mib| mib.parse().ok());
            (
                own_cpus.unwrap_or(cpus / count + usize::from(node < cpus % count)),
                own_memory.unwrap_or(amount(MEMORY_MB).div_ceil(count as u64)),
            )
        });
        Some(Self {
            nodes: nodes.collect(),
            is_dedicated,
            pages,
        })
    }

    /// Seats on a host of these nodes, each of the guest's on another; none where there are not enough.
    pub fn find(&self, cells: &[Cell], occupied: &Occupied) -> Option<Vec<Seat>> {
        let mut seats = Vec::with_capacity(self.nodes.len());
        self.find_from(cells, occupied, &mut seats).then_some(seats)
    }

    fn find_from(&self, cells: &[Cell], occupied: &Occupied, seats: &mut Vec<Seat>) -> bool {
        let Some((cpus, memory_mb)) = self.nodes.get(seats.len()) else {
            return true;
        };
        for cell in cells {
            if seats.iter().any(|seat| seat.cell == cell.id) {
                continue;
            }
            let Some(seat) = self.seat(cell, occupied, *cpus, *memory_mb) else {
                continue;
            };
            seats.push(seat);
            if self.find_from(cells, occupied, seats) {
                return true;
            }
            seats.pop();
        }
        false
    }

    fn seat(&self, cell: &Cell, occupied: &Occupied, cpus: usize, memory_mb: u64) -> Option<Seat> {
        let own: Vec<u32> = if self.is_dedicated {
            let free = cell.dedicated.iter().filter(|cpu| !occupied.cpus.contains_key(cpu));
            free.copied().take(cpus).collect()
        } else {
            Vec::new()
        };
        let has_cpus = if self.is_dedicated {
            own.len() == cpus
        } else {
            cell.cpus.len() - cell.dedicated.len().min(cell.cpus.len()) >= cpus
        };
        if !has_cpus || cell.memory_mb < memory_mb as i64 {
            return None;
        }
        let pages = match self.pages {
            None => None,
            Some(wanted) => Some(free_pages(cell, occupied, wanted, memory_mb)?),
        };
        Some(Seat {
            cell: cell.id,
            cpus: own,
            pages,
        })
    }
}

/// The size and number of pages for some memory; the largest of those that are wanted.
fn free_pages(cell: &Cell, occupied: &Occupied, wanted: Pages, memory_mb: u64) -> Option<(u64, u64)> {
    let suits = |kib: u64| match wanted {
        Pages::Large => true,
        Pages::Kib(size) => kib == size,
    };
    let mut sizes = cell.pages.iter().rev().filter(|(kib, _)| suits(**kib));
    sizes.find_map(|(kib, number)| {
        let needed = (memory_mb * 1024)
            .is_multiple_of(*kib)
            .then(|| memory_mb * 1024 / kib)?;
        let taken = occupied.pages.get(&(cell.id, *kib)).copied().unwrap_or(0);
        (taken + needed <= *number).then_some((*kib, needed))
    })
}

/// The pages that a word asks for: `large`, or a size such as `2048` (KiB), `2MB`, `1GiB`; none for the usual ones.
pub fn pages(word: &str) -> Option<Pages> {
    let word = word.trim().to_lowercase();
    if word == "large" {
        return Some(Pages::Large);
    }
    let at = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(at);
    let number: u64 = number.parse().ok()?;
    let kib = match unit.trim_end_matches("bit").trim_end_matches('b').trim_end_matches('i') {
        "" | "k" => number,
        "m" => number << 10,
        "g" => number << 20,
        "t" => number << 30,
        _ => return None,
    };
    (kib > USUAL_KIB).then_some(Pages::Kib(kib))
}

/// The size of pages that need no asking.
const USUAL_KIB: u64 = 4;

/// How many numbers a list such as `0-1,3` has, as extra specs write it.
fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if to > 4096 {
            return None; // more than any flavor has
        }
        all.extend(from..=to);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Wishes;

    fn cell(id: u32, cpus: std::ops::Range<u32>, dedicated: std::ops::Range<u32>) -> Cell {
        Cell {
            id,
            cpus: cpus.collect(),
            dedicated: dedicated.collect(),
            memory_mb: 8192,
            pages: [(2048, 1024), (1 << 20, 2)].into(),
        }
    }

    fn asking(specs: &[(&str, &str)]) -> Seating {
        let wishes = Wishes {
            extra_specs: specs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Wishes::default()
        };
        let spec = ClaimSpec {
            resources: [(VCPU, 4), (MEMORY_MB, 2048)].into(),
            wishes: Some(Box::new(wishes)),
            ..ClaimSpec::default()
        };
        Seating::of(&spec).unwrap()
    }

    #[test]
    fn seats_are_of_one_node_unless_more_are_asked_for() {
        let cells = [cell(0, 0..4, 2..4), cell(1, 4..12, 6..12)];
        let none = Occupied::default();
        let one = asking(&[("hw:cpu_policy", "dedicated")]).find(&cells, &none).unwrap();
        assert_eq!((one.len(), one[0].cell, &one[0].cpus[..]), (1, 1, &[6, 7, 8, 9][..]));
        let two = asking(&[("hw:cpu_policy", "dedicated"), ("hw:numa_nodes", "2")]);
        let seats = two.find(&cells, &none).unwrap();
        assert_eq!((&seats[0].cpus[..], &seats[1].cpus[..]), (&[2, 3][..], &[6, 7][..]));
        let mut taken = Occupied::default();
        taken.count(&seats, true);
        assert_eq!(two.find(&cells, &taken), None, "the first node has none left");
        taken.count(&seats, false);
        assert_eq!(taken, none);
        assert!(asking(&[("hw:numa_nodes", "3")]).find(&cells, &none).is_none());
    }

    #[test]
    fn pages_are_given_as_long_as_there_are_some() {
        let cells = [cell(0, 0..8, 0..0)];
        let large = asking(&[("hw:mem_page_size", "large")]);
        let mut taken = Occupied::default();
        for expected in [Some((1 << 20, 2)), Some((2048, 1024)), None] {
            let seats = large.find(&cells, &taken);
            assert_eq!(seats.as_ref().map(|seats| seats[0].pages.unwrap()), expected);
            taken.count(&seats.unwrap_or_default(), true);
        }
        assert!(
            asking(&[("hw:mem_page_size", "64")])
                .find(&cells, &Occupied::default())
                .is_none()
        );
    }

    #[test]
    fn sizes_of_pages_have_units() {
        for (word, expected) in [
            ("large", Some(Pages::Large)),
            ("small", None),
            ("any", None),
            ("4", None),
            ("4KB", None),
            ("2048", Some(Pages::Kib(2048))),
            ("2MB", Some(Pages::Kib(2048))),
            ("1GiB", Some(Pages::Kib(1 << 20))),
        ] {
            assert_eq!(pages(word), expected, "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_processor_is_never_given_twice(
            nodes in prop::collection::vec((1u32..6, 0u32..6), 1..4),
            steps in prop::collection::vec((any::<bool>(), 1usize..5, 1usize..3, any::<prop::sample::Index>()), 1..80),
        ) {
            let mut next = 0;
            let mut cells = Vec::new();
            for (id, (shared, dedicated)) in (0..).zip(nodes) {
                let middle = next + shared;
                cells.push(cell(id, next..middle + dedicated, middle..middle + dedicated));
                next = middle + dedicated;
            }
            let mut occupied = Occupied::default();
            let mut given: Vec<Vec<Seat>> = Vec::new();
            for (comes, cpus, count, which) in steps {
                if comes || given.is_empty() {
                    let wanted = Seating { nodes: vec![(cpus, 64); count], is_dedicated: true, pages: None };
                    if let Some(seats) = wanted.find(&cells, &occupied) {
                        prop_assert!(seats.iter().all(|seat| seat.cpus.len() == cpus));
                        occupied.count(&seats, true);
                        given.push(seats);
                    }
                } else {
                    let gone = given.swap_remove(which.index(given.len()));
                    occupied.count(&gone, false);
                }
                let all: Vec<u32> = given.iter().flatten().flat_map(|seat| seat.cpus.iter().copied()).collect();
                let unique: BTreeSet<u32> = all.iter().copied().collect();
                prop_assert_eq!(unique.len(), all.len(), "one is given twice");
                prop_assert!(unique.iter().all(|cpu| cells.iter().any(|cell| cell.dedicated.contains(cpu))));
                prop_assert_eq!(unique.into_iter().collect::<Vec<_>>(), occupied.cpus.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
