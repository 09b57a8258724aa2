//! The Debian packages that the guest is made of: which, in which version, and their content.
//!
//! Uses the host's apt with the host's sources, but installs nothing: packages are downloaded into the build's own
//! directory and unpacked there. When the host's package lists are missing or old, lists of our own are fetched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{TinyError, command::run, io_error};

/// The package that depends on the current kernel for cloud guests.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What else is unpacked, with the libraries it needs.
const PROGRAMS: &[&str] = &["busybox-static", "dropbear-bin"];

/// One package file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    /// The package's name.
    pub(super) name: String,
    /// The file's name, version included.
    pub(super) file: String,
    /// Its SHA-256 in hex.
    pub(super) sha256: String,
    /// Its size in bytes.
    pub(super) size: u64,
}

/// The host's apt, with its lists or with ours.
pub(super) struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Apt with the host's own lists. `directory` is where lists of our own would go.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            options: Vec::new(),
        }
    }

    /// Fetches package lists of our own, and uses them from now on.
    pub(super) async fn update(&mut self) -> Result<(), TinyError> {
        let root = self.directory.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        }
        self.options = vec![
            "-o".into(),
            format!("Dir::State={}", root.join("state").display()),
            "-o".into(),
            format!("Dir::Cache={}", root.join("cache").display()),
            "-o".into(),
            "Dir::State::status=/var/lib/dpkg/status".into(),
        ];
        self.run("apt-get", &["update", "-q"]).await.map(|_| ())
    }

    async fn run(&self, program: &'static str, arguments: &[&str]) -> Result<String, TinyError> {
        let options = self.options.iter().map(String::as_str);
        let output = run(program, options.chain(arguments.iter().copied()), &self.directory).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The packages of the guest in the versions that apt would install now.
    pub(super) async fn resolve(&self) -> Result<Vec<Package>, TinyError> {
        let kernel = self.run("apt-cache", &["depends", "--important", KERNEL]).await?;
        let kernel = depends(&kernel)
            .into_iter()
            .find(|name| name.starts_with("linux-image-"));
        let kernel = kernel.ok_or(TinyError::Unavailable { package: KERNEL })?;
        let mut names: BTreeSet<String> = PROGRAMS.iter().map(|name| (*name).to_owned()).collect();
        let mut arguments = vec!["depends", "--recurse", "--important"];
        arguments.extend(PROGRAMS);
        let libraries = self.run("apt-cache", &arguments).await?;
        names.extend(
            depends(&libraries)
                .into_iter()
                .filter(|name| name.starts_with("lib") || name == "zlib1g"),
        );
        names.insert(kernel);

        let mut arguments = vec!["download", "-q", "--print-uris"];
        arguments.extend(names.iter().map(String::as_str));
        let mut packages = parse_uris(&self.run("apt-get", &arguments).await?);
        packages.sort();
        if packages.len() < names.len() {
            return Err(TinyError::Unavailable { package: KERNEL });
        }
        Ok(packages)
    }

    /// Downloads what is not in `directory` yet. What is there afterwards is what apt has verified.
    pub(super) async fn download(&self, packages: &[Package], directory: &Path) -> Result<(), TinyError> {
        fs::create_dir_all(directory).map_err(io_error("make", directory))?;
        let missing: Vec<_> = packages.iter().filter(|package| !is_here(package, directory)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut arguments: Vec<&str> = self.options.iter().map(String::as_str).collect();
        arguments.extend(["download", "-q"]);
        arguments.extend(missing.iter().map(|package| package.name.as_str()));
        run("apt-get", arguments, directory).await?;
        match missing.iter().find(|package| !is_here(package, directory)) {
            Some(package) => Err(TinyError::Damaged {
                file: package.file.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether the package file is there, with the size and content that apt's signed lists name.
fn is_here(package: &Package, directory: &Path) -> bool {
    let path = directory.join(&package.file);
    let is_complete = fs::metadata(&path).is_ok_and(|meta| meta.len() == package.size);
    is_complete && fs::read(&path).is_ok_and(|bytes| crate::blobs::hex(&Sha256::digest(bytes)) == package.sha256)
}

/// Unpacks packages, each into a directory of its name below `into`.
pub(super) async fn unpack(packages: &[Package], from: &Path, into: &Path) -> Result<(), TinyError> {
    for package in packages {
        let target = into.join(&package.name);
        fs::create_dir_all(&target).map_err(io_error("make", &target))?;
        let file = from.join(&package.file);
        run("dpkg-deb", ["-x".as_ref(), file.as_os_str(), target.as_os_str()], into).await?;
    }
    Ok(())
}

/// The names after `Depends:` and `PreDepends:`, without those that stand for others (`<libc-dev>`).
fn depends(output: &str) -> Vec<String> {
    let names = output
        .lines()
        .filter_map(|line| line.trim_start().trim_start_matches('|').split_once("Depends: "));
    names
        .map(|(_, name)| name.trim().to_owned())
        .filter(|name| !name.starts_with('<'))
        .collect()
}

/// Reads lines of the form `'http://…/x_1.0_amd64.deb' x_1%3a1.0_amd64.deb 1234 SHA256:ab…`. Of several versions of one
/// package the first counts, as for apt.
fn parse_uris(output: &str) -> Vec<Package> {
    let mut packages = BTreeMap::new();
    for line in output.lines().filter(|line| line.starts_with('\'')) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(file), Some(size), Some(hash)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some((name, _)), Ok(size), Some(sha256)) =
            (file.split_once('_'), size.parse(), hash.strip_prefix("SHA256:"))
        else {
            continue;
        };
        let package = Package {
            name: name.to_owned(),
            file: file.to_owned(),
            sha256: sha256.to_owned(),
            size,
        };
        packages.entry(name.to_owned()).or_insert(package);
    }
    packages.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_output_is_understood() {
        let output = "'http://mirror.example/debian/pool/main/b/busybox/busybox-static_1.35.0-4_amd64.deb' \
                      busybox-static_1%3a1.35.0-4_amd64.deb 928188 SHA256:00ff\nsomething else\n";
        let packages = parse_uris(output);
        assert_eq!(packages.len(), 1);
        assert_eq!(
            (packages[0].name.as_str(), packages[0].size),
            ("busybox-static", 928_188)
        );
        assert_eq!(packages[0].file, "busybox-static_1%3a1.35.0-4_amd64.deb");
    }

    #[test]
    fn dependencies_are_those_of_packages() {
        let output =
            "dropbear-bin\n  Depends: libc6\n |Depends: libcrypt1\n  PreDepends: zlib1g\n  Depends: <virtual>\n";
        assert_eq!(depends(output), ["libc6", "libcrypt1", "zlib1g"]);
    }
}
