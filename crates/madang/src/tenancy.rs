//! Two projects in one cloud, and every route of every API: nothing of the one is seen, changed or counted by the other.
//!
//! The routes come from the routers themselves ([`Metrics::noting_routes`]), what to do with each from `tenancy/*.cases`: a
//! route without a line there fails the test, and so does a line without a route. What a line means is said in
//! [`cases::Kind`]. The role `admin` is left out: in OpenStack whoever has it anywhere is an administrator of the cloud.

mod cases;
mod world;

use std::{collections::BTreeSet, fmt::Write as _};

use cases::{Case, Kind};
use world::World;

/// What the other project's people are there. A manager is a member, and a member a reader.
const ROLES: [&str; 3] = ["reader", "member", "manager"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_another_project_is_seen_changed_or_counted() {
    let mut world = World::begin(&ROLES).await;
    let cases = cases::read();
    let mut wrong = forgotten(&world, &cases);
    let counted = counts(&world, &cases).await;
    world.furnish().await;
    let again = counts(&world, &cases).await;
    for case in &cases {
        world.control(case, &mut wrong).await;
    }
    for case in &cases {
        for role in ROLES.iter().copied().map(Some).chain([None]) {
            attempt(&world, case, role, &mut wrong).await;
        }
    }
    for ((line, before), (_, after)) in counted.iter().zip(&again) {
        if before != after {
            wrong.push(format!(
                "{line}: counts what is another's: before {before}, now {after}"
            ));
        }
    }
    let list = wrong.iter().fold(String::new(), |mut list, line| {
        _ = writeln!(list, "{line}");
        list
    });
    assert!(
        wrong.is_empty(),
        "{} of {} cases are wrong:\n{list}",
        wrong.len(),
        cases.len()
    );
}

/// Routes without a case, and cases without a route.
fn forgotten(world: &World, cases: &[Case]) -> Vec<String> {
    let routes: BTreeSet<String> = world.routes().into_iter().collect();
    let known: BTreeSet<String> = cases.iter().map(Case::route).collect();
    let missing = routes.difference(&known);
    let missing = missing.map(|route| format!("{route}: has no case in crates/madang/src/tenancy: add a line for it"));
    let stale = known.difference(&routes);
    let stale = stale.map(|route| format!("{route}: has a case, and no router has the route"));
    missing.chain(stale).collect()
}

/// What the other project is told of its own use.
async fn counts(world: &World, cases: &[Case]) -> Vec<(String, String)> {
    let mut counts = Vec::new();
    for case in cases.iter().filter(|case| case.kind == Kind::Count) {
        let answer = world.send(case, Some("manager")).await;
        let said = format!("{} {}", answer.status, world::without_times(&answer.text));
        counts.push((case.route(), said));
    }
    counts
}

/// Somebody of the other project, or nobody, asks for something.
async fn attempt(world: &World, case: &Case, role: Option<&str>, wrong: &mut Vec<String>) {
    let before = if case.is_read() {
        None
    } else {
        Some(world.belongings().await)
    };
    let answer = world.send(case, role).await;
    let who = role.unwrap_or("nobody");
    let mut complain = |what: String| wrong.push(format!("{} as {who}: {what}", case.route()));
    for secret in world.secrets_in(case, &answer.text) {
        complain(format!("{} shows {secret}: {}", answer.status, shortened(&answer.text)));
    }
    if let Some(before) = before {
        let after = world.belongings().await;
        for (record, revision) in &after {
            if before.get(record) != Some(revision) {
                complain(format!("{} changed {record}", answer.status));
            }
        }
        for record in before.keys().filter(|record| !after.contains_key(*record)) {
            complain(format!("{} removed {record}", answer.status));
        }
    }
    if !case.expects(role, answer.status) {
        complain(format!("answered {}: {}", answer.status, shortened(&answer.text)));
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(240).collect()
}
