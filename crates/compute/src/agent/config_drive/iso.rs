//! Writes a compact disc's file system: ISO 9660, with Joliet for those who want names as they are. Pure.
//!
//! Names in the plain tree are in capitals and otherwise as they are, as other tools write them for systems that take more
//! than eight letters; Linux shows them in small letters. Source: ECMA-119, and Microsoft's Joliet specification.

use std::collections::{BTreeMap, BTreeSet};

const SECTOR: usize = 2048;
/// Sectors before the descriptors, which belong to no standard.
const SYSTEM: usize = 16;
/// Two descriptors and what ends them.
const DESCRIPTORS: usize = 3;
/// 1970-01-01 00:00 in a directory's record: the same files make the same disc.
const DATE: [u8; 7] = [70, 1, 1, 0, 0, 0, 0];

/// In which form names are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Joliet,
}

/// Where something lies: its first sector, and how many bytes it has.
#[derive(Clone, Copy, Default)]
struct Extent {
    sector: u32,
    bytes: u32,
}

type Path<'a> = Vec<&'a str>;

/// A disc with this label and these files, by path with slashes.
pub(super) fn image(label: &str, files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let files: BTreeMap<Path<'_>, &[u8]> = files
        .iter()
        .map(|(path, body)| (path.split('/').collect(), body.as_slice()))
        .collect();
    let mut disc = Disc::new(&files);
    for (path, body) in &files {
        let extent = disc.append(body);
        disc.extents.insert(path.clone(), extent);
    }
    let trees = [Form::Plain, Form::Joliet].map(|form| disc.tree(form));
    let sectors = u32_of(disc.bytes.len() / SECTOR);
    for (tree, at) in trees.iter().zip(SYSTEM..) {
        disc.put(at, &tree.descriptor(label, sectors));
    }
    disc.put(SYSTEM + 2, b"\xffCD001\x01");
    disc.bytes
}

struct Disc<'a> {
    bytes: Vec<u8>,
    /// Parents before children, each level in the order of names: the order of path tables.
    directories: Vec<Path<'a>>,
    extents: BTreeMap<Path<'a>, Extent>,
}

/// One of the two views of the files.
struct Tree {
    form: Form,
    root: Extent,
    /// The path table, in either byte order.
    tables: [Extent; 2],
}

impl<'a> Disc<'a> {
    fn new(files: &BTreeMap<Path<'a>, &[u8]>) -> Self {
        let mut all = BTreeSet::from([Path::new()]);
        for path in files.keys() {
            all.extend((1..path.len()).map(|depth| path[..depth].to_vec()));
        }
        let mut directories: Vec<Path<'a>> = all.into_iter().collect();
        directories.sort_by(|one, other| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
        Self {
            bytes: vec![0; (SYSTEM + DESCRIPTORS) * SECTOR],
            directories,
            extents: BTreeMap::new(),
        }
    }

    fn append(&mut self, body: &[u8]) -> Extent {
        let sector = u32_of(self.bytes.len() / SECTOR);
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        Extent {
            sector,
            bytes: u32_of(body.len()),
        }
    }

    fn put(&mut self, sector: usize, body: &[u8]) {
        self.bytes[sector * SECTOR..][..body.len()].copy_from_slice(body);
    }

    /// Writes directories and path tables in a form. Where a directory lies follows from the sizes of those before.
    fn tree(&mut self, form: Form) -> Tree {
        let mut extents = self.extents.clone();
        let mut sector = u32_of(self.bytes.len() / SECTOR);
        for directory in &self.directories {
            let bytes = u32_of(self.records(directory, &extents, form).len());
            extents.insert(directory.clone(), Extent { sector, bytes });
            sector += bytes / SECTOR as u32;
        }
        for directory in self.directories.clone() {
            let records = self.records(&directory, &extents, form);
            self.append(&records);
        }
        let tables = [u32::to_le_bytes as fn(u32) -> [u8; 4], u32::to_be_bytes].map(|order| {
            let table = self.path_table(&extents, form, order);
            self.append(&table)
        });
        Tree {
            form,
            root: extents[&Path::new()],
            tables,
        }
    }

    /// A directory's records, none of which crosses the end of a sector. Sizes are right when extents are not known yet.
    fn records(&self, directory: &Path<'a>, extents: &BTreeMap<Path<'a>, Extent>, form: Form) -> Vec<u8> {
        let extent = |path: &[&str]| extents.get(path).copied().unwrap_or_default();
        let parent = &directory[..directory.len().saturating_sub(1)];
        let mut records = vec![
            record(&[0], extent(directory), true),
            record(&[1], extent(parent), true),
        ];
        let is_inside = |path: &Path<'a>| path.len() == directory.len() + 1 && path.starts_with(directory);
        let inner = self
            .directories
            .iter()
            .filter(|path| is_inside(path))
            .map(|path| (path, true));
        let files = self
            .extents
            .keys()
            .filter(|path| is_inside(path))
            .map(|path| (path, false));
        let mut entries: Vec<(Vec<u8>, &Path<'a>, bool)> = inner
            .chain(files)
            .map(|(path, is_directory)| (name(path, is_directory, form), path, is_directory))
            .collect();
        entries.sort();
        records.extend(
            entries
                .iter()
                .map(|(name, path, is_directory)| record(name, extent(path), *is_directory)),
        );
        let mut bytes: Vec<u8> = Vec::new();
        for record in records {
            if bytes.len() % SECTOR + record.len() > SECTOR {
                bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            }
            bytes.extend(record);
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        bytes
    }

    fn path_table(&self, extents: &BTreeMap<Path<'a>, Extent>, form: Form, order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let big = order(1)[3] == 1;
        let mut table = Vec::new();
        for directory in &self.directories {
            let name = if directory.is_empty() {
                vec![0]
            } else {
                name(directory, true, form)
            };
            let parent = &directory[..directory.len().saturating_sub(1)];
            let parent = self
                .directories
                .iter()
                .position(|path| path == parent)
                .unwrap_or_default()
                + 1;
            let parent = u16::try_from(parent).unwrap_or(u16::MAX);
            table.extend([u8_of(name.len()), 0]);
            table.extend(order(extents[directory].sector));
            table.extend(if big {
                parent.to_be_bytes()
            } else {
                parent.to_le_bytes()
            });
            table.extend(&name);
            table.extend(vec![0; name.len() % 2]);
        }
        table
    }
}

impl Tree {
    fn descriptor(&self, label: &str, sectors: u32) -> Vec<u8> {
        let is_joliet = self.form == Form::Joliet;
        let mut bytes = vec![if is_joliet { 2 } else { 1 }];
        bytes.extend(b"CD001\x01\0");
        bytes.extend(self.text("", 32));
        bytes.extend(self.text(label, 32));
        bytes.extend([0; 8]);
        bytes.extend(both(sectors));
        let mut escapes = [0; 32];
        if is_joliet {
            // UCS-2, level 3.
            escapes[..3].copy_from_slice(b"%/E");
        }
        bytes.extend(escapes);
        for number in [1, 1, SECTOR as u16] {
            bytes.extend(number.to_le_bytes());
            bytes.extend(number.to_be_bytes());
        }
        let [little, big] = self.tables;
        bytes.extend(both(little.bytes));
        bytes.extend(little.sector.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(big.sector.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(record(&[0], self.root, true));
        // Set, publisher, preparer, application; then three files' names.
        for length in [128, 128, 128, 128, 37, 37, 37] {
            bytes.extend(self.text("", length));
        }
        for _ in 0..4 {
            bytes.extend([b'0'; 16]);
            bytes.push(0);
        }
        bytes.push(1);
        bytes
    }

    fn text(&self, text: &str, length: usize) -> Vec<u8> {
        let mut bytes = match self.form {
            Form::Plain => text.as_bytes().to_vec(),
            Form::Joliet => wide(text),
        };
        while bytes.len() < length {
            match self.form {
                Form::Plain => bytes.push(b' '),
                Form::Joliet => bytes.extend([0, b' ']),
            }
        }
        bytes.truncate(length);
        bytes
    }
}

/// The last part of a path, as a record has it.
fn name(path: &[&str], is_directory: bool, form: Form) -> Vec<u8> {
    let last = path.last().copied().unwrap_or_default();
    let version = if is_directory { "" } else { ";1" };
    match form {
        // A name without a point has one nonetheless.
        Form::Plain if !is_directory && !last.contains('.') => {
            format!("{}.{version}", last.to_uppercase()).into_bytes()
        }
        Form::Plain => format!("{}{version}", last.to_uppercase()).into_bytes(),
        Form::Joliet => wide(&format!("{last}{version}")),
    }
}

fn record(name: &[u8], extent: Extent, is_directory: bool) -> Vec<u8> {
    let length = (33 + name.len()).next_multiple_of(2);
    let mut record = vec![u8_of(length), 0];
    record.extend(both(extent.sector));
    record.extend(both(extent.bytes));
    record.extend(DATE);
    record.extend([if is_directory { 2 } else { 0 }, 0, 0, 1, 0, 0, 1, u8_of(name.len())]);
    record.extend(name);
    record.resize(length, 0);
    record
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A number in both byte orders.
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn u32_of(number: usize) -> u32 {
    u32::try_from(number).expect("a config drive has some kilobytes")
}

fn u8_of(number: usize) -> u8 {
    u8::try_from(number).expect("our names are short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> usize {
        u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize
    }

    /// What a path leads to, from the root of the descriptor in a sector.
    fn find<'a>(disc: &'a [u8], descriptor: usize, path: &[&[u8]]) -> Option<&'a [u8]> {
        let mut at = &disc[descriptor * SECTOR + 156..];
        for part in path {
            let records = &disc[number(&at[2..]) * SECTOR..][..number(&at[10..])];
            let mut offset = 0;
            at = loop {
                let record = records.get(offset..)?;
                match usize::from(*record.first()?) {
                    0 => offset = (offset + 1).next_multiple_of(SECTOR),
                    length if &record[33..33 + usize::from(record[32])] == *part => break &record[..length],
                    length => offset += length,
                }
            };
        }
        Some(&disc[number(&at[2..]) * SECTOR..][..number(&at[10..])])
    }

    #[test]
    fn files_are_found_in_both_trees() {
        let mut files = BTreeMap::new();
        files.insert("openstack/latest/meta_data.json".to_owned(), b"{}".to_vec());
        files.insert("openstack/content/0000".to_owned(), vec![7; 5000]);
        for index in 0..200 {
            files.insert(format!("many/file-{index}"), index.to_string().into_bytes());
        }
        let disc = image("config-2", &files);
        assert_eq!(disc.len() % SECTOR, 0);
        let sectors = number(&disc[SYSTEM * SECTOR + 80..]);
        assert_eq!(sectors * SECTOR, disc.len());
        assert_eq!(&disc[SYSTEM * SECTOR + 40..][..9], b"config-2 ");
        let plain = |path: &[&[u8]]| find(&disc, SYSTEM, path);
        assert_eq!(plain(&[b"OPENSTACK", b"LATEST", b"META_DATA.JSON;1"]), Some(&b"{}"[..]));
        assert_eq!(plain(&[b"OPENSTACK", b"CONTENT", b"0000.;1"]), Some(&[7; 5000][..]));
        assert_eq!(
            plain(&[b"MANY", b"FILE-150.;1"]),
            Some(&b"150"[..]),
            "beyond the first sector"
        );
        assert_eq!(plain(&[b"MANY", b"FILE-200.;1"]), None);
        let (folder, file) = (wide("many"), wide("file-199;1"));
        assert_eq!(find(&disc, SYSTEM + 1, &[&folder, &file]), Some(&b"199"[..]));
    }

    #[test]
    fn the_same_files_make_the_same_disc() {
        let files = BTreeMap::from([("a/b".to_owned(), b"c".to_vec())]);
        assert_eq!(image("config-2", &files), image("config-2", &files));
    }
}
