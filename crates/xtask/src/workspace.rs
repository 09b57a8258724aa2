//! The workspace as read from disk: crates, what they depend on, and their source files. Read once; the checks are
//! pure functions over it.

use std::{fs, path::Path};

use anyhow::Context;

/// Everything the checks look at.
#[derive(Default)]
pub struct Workspace {
    /// By directory name.
    pub crates: Vec<Crate>,
}

/// One directory below `crates/`.
#[derive(Default)]
pub struct Crate {
    /// Its directory's name, such as `network`.
    pub directory: String,
    /// Its package name, such as `madang-network`.
    pub package: String,
    /// Everything in its three dependency tables.
    pub dependencies: Vec<Dependency>,
    /// Does it take the workspace's lints?
    pub takes_lints: bool,
    /// Manifests found further down, relative to the workspace; there should be none.
    pub nested: Vec<String>,
    /// Its Rust files.
    pub files: Vec<File>,
}

/// One line of a dependency table.
pub struct Dependency {
    /// As named in the manifest.
    pub name: String,
    /// Does the version come from the workspace's table?
    pub from_workspace: bool,
    /// Is it only for tests?
    pub dev: bool,
}

/// A Rust source file.
pub struct File {
    /// Relative to the workspace, such as `crates/store/src/key.rs`.
    pub path: String,
    /// What it says.
    pub text: String,
}

impl File {
    /// Is all of it test code, by where it lies?
    pub fn is_test(&self) -> bool {
        let is_test = |part: &str| matches!(part, "tests" | "benches" | "tests.rs") || part.ends_with("_tests.rs");
        self.path.split('/').any(is_test)
    }

    /// The part before its own test module, line by line, numbered from 1.
    pub fn lines_before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.test_module_at().unwrap_or(usize::MAX);
        self.text
            .lines()
            .enumerate()
            .take(end)
            .map(|(index, line)| (index + 1, line))
    }

    /// The index of the line with the `#[cfg(test)]` of an unindented `mod … {`; tests stand last in a file.
    fn test_module_at(&self) -> Option<usize> {
        let lines: Vec<&str> = self.text.lines().collect();
        lines.iter().enumerate().find_map(|(index, line)| {
            let opens_module = || {
                lines[index + 1..]
                    .iter()
                    .find(|next| !next.starts_with("#["))
                    .is_some_and(|next| next.contains("mod ") && next.ends_with('{'))
            };
            (*line == "#[cfg(test)]" && opens_module()).then_some(index)
        })
    }
}

impl Workspace {
    /// Reads `root/crates`.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let mut crates = Vec::new();
        for entry in sorted(&root.join("crates"))? {
            if entry.is_dir() {
                crates.push(Crate::read(root, &entry)?);
            }
        }
        Ok(Self { crates })
    }

    /// All source files of all crates.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.crates.iter().flat_map(|krate| &krate.files)
    }

    /// The crate with this package name.
    pub fn package(&self, name: &str) -> Option<&Crate> {
        self.crates.iter().find(|krate| krate.package == name)
    }
}

impl Crate {
    fn read(root: &Path, directory: &Path) -> anyhow::Result<Self> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = directory.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("could not read {}", manifest.display()))?;
        let mut krate = Self::parse(name, &text).with_context(|| format!("could not parse {}", manifest.display()))?;
        krate.walk(root, directory, true)?;
        Ok(krate)
    }

    /// A crate from its manifest's text, without its files.
    pub fn parse(directory: String, manifest: &str) -> anyhow::Result<Self> {
        let manifest: toml::Table = manifest.parse()?;
        let lookup = |path: [&str; 2]| manifest.get(path[0])?.get(path[1]);
        let mut dependencies = Vec::new();
        for (section, dev) in [
            ("dependencies", false),
            ("build-dependencies", false),
            ("dev-dependencies", true),
        ] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in table {
                let from_workspace = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                dependencies.push(Dependency {
                    name: name.clone(),
                    from_workspace,
                    dev,
                });
            }
        }
        Ok(Self {
            directory,
            package: lookup(["package", "name"])
                .and_then(toml::Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            dependencies,
            takes_lints: lookup(["lints", "workspace"]).and_then(toml::Value::as_bool) == Some(true),
            ..Self::default()
        })
    }

    fn walk(&mut self, root: &Path, directory: &Path, top: bool) -> anyhow::Result<()> {
        for path in sorted(directory)? {
            let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(
                    path.file_name().and_then(|name| name.to_str()),
                    Some("target" | "node_modules")
                ) {
                    self.walk(root, &path, false)?;
                }
            } else if !top && path.file_name().is_some_and(|name| name == "Cargo.toml") {
                self.nested.push(shown);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| format!("could not read {shown}"))?;
                self.files.push(File { path: shown, text });
            }
        }
        Ok(())
    }

    /// Our own crates among its dependencies, tests' left out.
    pub fn ours(&self) -> impl Iterator<Item = &str> {
        self.dependencies
            .iter()
            .filter(|dependency| !dependency.dev && dependency.name.starts_with("madang-"))
            .map(|dependency| dependency.name.as_str())
    }
}

fn sorted(directory: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("could not list {}", directory.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read() {
        let krate = Crate::parse(
            "block".into(),
            "[package]\nname = 'madang-block'\n[lints]\nworkspace = true\n[dependencies]\nserde.workspace = true\n\
             tar = '0.4'\nmadang-store = { workspace = true }\n[dev-dependencies]\nmadang-testkit.workspace = true",
        )
        .unwrap();
        assert_eq!(krate.package, "madang-block");
        assert!(krate.takes_lints);
        assert_eq!(krate.ours().collect::<Vec<_>>(), ["madang-store"]);
        let tar = krate
            .dependencies
            .iter()
            .find(|dependency| dependency.name == "tar")
            .unwrap();
        assert!(!tar.from_workspace && !tar.dev);
    }

    #[test]
    fn tests_at_the_end_do_not_count() {
        let text = "fn a() {}\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n".to_owned();
        let file = File {
            path: "crates/a/src/a.rs".into(),
            text,
        };
        assert_eq!(file.lines_before_tests().count(), 3);
        assert!(!file.is_test());
        assert!(
            File {
                path: "crates/a/tests/it.rs".into(),
                text: String::new()
            }
            .is_test()
        );
    }
}
