//! Who may depend on whom. Dependencies point at the foundation, never back; between domains only types travel; the
//! longest chain of our own crates stays at nine, since breadth builds in parallel and reads better than depth.

use super::{Finding, place_of};
use crate::workspace::{Crate, Workspace};

/// How many of our crates may stand behind one another.
const LONGEST_CHAIN: usize = 9;

/// Corners of another domain's rooms that nobody outside may enter; its resource types are beside them.
const PRIVATE_CORNERS: [&str; 5] = ["rules", "api", "control", "agent", "driver"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// Knows nothing of clouds.
    Foundation,
    /// Domains that serve all others: their functions may be called.
    Serving,
    Domain,
    /// Faces that span several domains.
    Face,
    Binary,
    /// For tests and chores.
    Tool,
}

fn layer(directory: &str) -> Option<Layer> {
    Some(match directory {
        "store" | "control" | "http" | "host" => Layer::Foundation,
        "identity" | "scheduler" => Layer::Serving,
        "audit" | "image" | "network" | "block" | "compute" | "container" | "object" | "stack" | "telemetry" => {
            Layer::Domain
        }
        "kubernetes" | "docker" | "app" | "dashboard" => Layer::Face,
        "madang" => Layer::Binary,
        "testkit" | "xtask" | "bench" => Layer::Tool,
        _ => return None,
    })
}

pub fn all(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for krate in &workspace.crates {
        edges(krate, findings);
        corners(krate, findings);
        let chain = longest_chain(workspace, krate, &mut Vec::new());
        if chain.len() > LONGEST_CHAIN {
            let text = format!(
                "{} crates stand behind one another ({}), at most {LONGEST_CHAIN} may",
                chain.len(),
                chain.join(" → ")
            );
            findings.push(Finding::new(place_of(krate), text));
        }
    }
}

fn edges(krate: &Crate, findings: &mut Vec<Finding>) {
    let Some(from) = layer(&krate.directory) else {
        let text =
            "this crate has no layer yet: give it one in crates/xtask/src/check/direction.rs and in ARCHITECTURE.md";
        findings.push(Finding::new(place_of(krate), text));
        return;
    };
    for package in krate.ours() {
        let to = package.trim_start_matches("madang-");
        let Some(to_layer) = layer(to) else { continue }; // found where that crate is looked at
        if let Some(reason) = refusal((&krate.directory, from), (to, to_layer)) {
            findings.push(Finding::new(
                place_of(krate),
                format!("`{}` must not depend on `{to}`: {reason}", krate.directory),
            ));
        }
    }
}

/// Why the first may not depend on the second; none where it may.
fn refusal((from, from_layer): (&str, Layer), (to, to_layer): (&str, Layer)) -> Option<&'static str> {
    match (from_layer, to_layer) {
        (Layer::Binary | Layer::Tool, _) => None,
        (_, Layer::Tool) => Some("it is for tests: make it a dev-dependency"),
        (_, Layer::Binary) => Some("nothing depends on the binary"),
        (Layer::Foundation, Layer::Foundation) => foundation_refusal(from, to),
        (Layer::Foundation, _) => Some("the foundation knows nothing of clouds"),
        (Layer::Serving, Layer::Foundation) => None,
        (Layer::Serving, Layer::Serving) if from == "scheduler" => None,
        (Layer::Serving, _) => Some("it serves every domain, so it can know none"),
        (Layer::Domain, Layer::Foundation | Layer::Serving | Layer::Domain) => None,
        (Layer::Domain, Layer::Face) => Some("faces stand above the domains"),
        (Layer::Face, Layer::Face) => Some("faces do not know each other"),
        (Layer::Face, _) if to == "host" => Some("a face never touches a host driver"),
        (Layer::Face, _) => None,
    }
}

/// Within the foundation: the store knows nobody, control knows the store, http and host know both but not each other.
fn foundation_refusal(from: &str, to: &str) -> Option<&'static str> {
    let allowed: &[&str] = match from {
        "store" => &[],
        "control" => &["store"],
        _ => &["store", "control"],
    };
    (!allowed.contains(&to)).then_some("in the foundation, control stands on store, and http and host on both")
}

/// "Types travel, code does not": a domain names no module of another domain that holds its code.
fn corners(krate: &Crate, findings: &mut Vec<Finding>) {
    if layer(&krate.directory) != Some(Layer::Domain) {
        return;
    }
    for file in krate.files.iter().filter(|file| !file.is_test()) {
        for (number, line) in file.lines_before_tests() {
            for (to, corner) in foreign_corners(line) {
                if to != krate.directory && layer(to) == Some(Layer::Domain) {
                    let text = format!(
                        "`{}` reaches into `{corner}` of `{to}`: between domains only types travel, the rest goes through the \
                         store or a trait in `host`",
                        krate.directory
                    );
                    findings.push(Finding::new(format!("{}:{number}", file.path), text));
                }
            }
        }
    }
}

/// Pairs of crate directory and private corner on paths such as `madang_network::port::rules::create`.
fn foreign_corners(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.match_indices("madang_").filter_map(|(at, prefix)| {
        let path = &line[at + prefix.len()..];
        let end = path
            .find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'))
            .unwrap_or(path.len());
        let mut parts = path[..end].split("::");
        let to = parts.next()?;
        parts
            .find(|part| PRIVATE_CORNERS.contains(part))
            .map(|corner| (to, corner))
    })
}

/// The longest path of our crates that starts at `krate`, itself included.
fn longest_chain(workspace: &Workspace, krate: &Crate, above: &mut Vec<String>) -> Vec<String> {
    if above.contains(&krate.package) {
        return Vec::new(); // a circle; cargo refuses it with a better message
    }
    above.push(krate.package.clone());
    let mut best = Vec::new();
    for next in krate.ours().filter_map(|name| workspace.package(name)) {
        let chain = longest_chain(workspace, next, above);
        if chain.len() > best.len() {
            best = chain;
        }
    }
    above.pop();
    best.insert(0, krate.directory.clone());
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::File;

    fn crate_on(directory: &str, on: &[&str]) -> Crate {
        let mut manifest = format!("[package]\nname = 'madang-{directory}'\n[dependencies]\n");
        for name in on {
            manifest.push_str(&format!("madang-{name}.workspace = true\n"));
        }
        Crate::parse(directory.into(), &manifest).unwrap()
    }

    fn findings(krates: Vec<Crate>) -> Vec<String> {
        let mut findings = Vec::new();
        all(&Workspace { crates: krates }, &mut findings);
        findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn what_points_at_the_foundation_passes() {
        let krates = vec![
            crate_on("store", &[]),
            crate_on("control", &["store"]),
            crate_on("host", &["control", "store"]),
            crate_on("scheduler", &["identity", "store"]),
            crate_on("compute", &["network", "image", "scheduler", "host"]),
            crate_on("kubernetes", &["compute", "http"]),
        ];
        assert_eq!(findings(krates), [""; 0]);
    }

    #[test]
    fn what_points_back_is_named() {
        for (from, to) in [
            ("store", "control"),
            ("http", "host"),
            ("host", "compute"),
            ("identity", "scheduler"),
            ("scheduler", "compute"),
            ("network", "kubernetes"),
            ("docker", "kubernetes"),
            ("kubernetes", "host"),
            ("image", "testkit"),
        ] {
            let found = findings(vec![crate_on(from, &[to])]);
            assert_eq!(found.len(), 1, "{from} on {to}");
            assert!(
                found[0].contains(&format!("`{from}` must not depend on `{to}`")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        assert!(findings(vec![crate_on("gadget", &[])])[0].contains("no layer yet"));
    }

    #[test]
    fn between_domains_only_types_travel() {
        let mut krate = crate_on("compute", &["network"]);
        krate.files.push(File {
            path: "crates/compute/src/server.rs".into(),
            text: "use madang_network::port::{Port, PortSpec};\nuse madang_store::driver::x;\n\
                   fn a() { madang_network::port::rules::create() }\n"
                .into(),
        });
        let found = findings(vec![krate]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("crates/compute/src/server.rs:3: `compute` reaches into `rules` of `network`"),
            "{found:?}"
        );
    }

    #[test]
    fn a_chain_of_ten_is_one_too_many() {
        let names = [
            "store",
            "control",
            "host",
            "scheduler",
            "image",
            "network",
            "compute",
            "container",
            "docker",
            "madang",
        ];
        let mut krates: Vec<Crate> = names
            .iter()
            .enumerate()
            .map(|(at, name)| crate_on(name, &names[at.saturating_sub(1)..at]))
            .collect();
        assert!(
            findings(krates.drain(..9).collect())
                .iter()
                .all(|text| !text.contains("behind one another"))
        );
        let krates = names
            .iter()
            .enumerate()
            .map(|(at, name)| crate_on(name, &names[at.saturating_sub(1)..at]))
            .collect();
        assert!(
            findings(krates)
                .iter()
                .any(|text| text.contains("10 crates stand behind one another (madang → docker"))
        );
    }
}
