//! The book by itself.

use std::sync::Arc;

use madang_http::{Actor, Outcome};

use super::*;

fn event(second: i64, user: &str, project: &str, action: &str, status: u16) -> Event {
    let actor = Actor {
        user_id: format!("{user}-id"),
        user_name: user.into(),
        project_id: Some(format!("{project}-id")),
        project_name: Some(project.into()),
        roles: vec!["member".into()],
        ..Actor::default()
    };
    Event {
        time: Timestamp::from_second(second).unwrap(),
        request_id: format!("req-{second}"),
        global_request_id: None,
        source: Some("192.0.2.1".parse().unwrap()),
        actor: Some(Arc::new(actor)),
        claimed: None,
        service: "compute".into(),
        action: action.into(),
        resource: "servers".into(),
        resource_id: Some("s1".into()),
        method: "POST".into(),
        path: "/compute/v2.1/servers".into(),
        route: "/compute/v2.1/servers".into(),
        status,
        outcome: if status < 400 {
            Outcome::Success
        } else {
            Outcome::Failure
        },
        duration_us: 10,
    }
}

fn book() -> (tempfile::TempDir, Book) {
    let scratch = tempfile::tempdir().unwrap();
    let book = Book::open(&scratch.path().join("audit.db")).unwrap();
    (scratch, book)
}

#[test]
fn only_its_owner_may_read_it() {
    let (scratch, mut book) = book();
    book.add(&[event(1, "ann", "p", "servers:create", 202)]).unwrap();
    let modes = || -> Vec<u32> {
        let entries = fs::read_dir(scratch.path()).unwrap();
        let mode = |entry: io::Result<fs::DirEntry>| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777;
        entries.map(mode).collect()
    };
    assert_eq!(modes(), [0o600; 3], "the book and SQLite's log and index of it");
    for entry in fs::read_dir(scratch.path()).unwrap() {
        fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o644)).unwrap();
    }
    let _again = Book::open(&scratch.path().join("audit.db")).unwrap();
    assert_eq!(modes(), [0o600; 3], "an earlier version made it open to all");
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let (scratch, mut book) = book();
    let events = [
        event(1, "alice", "red", "create", 202),
        event(2, "bob", "blue", "delete", 403),
    ];
    book.add(&events).unwrap();
    let found = Book::read_only(&scratch.path().join("audit.db")).unwrap();
    let found = found.find(&Filter::default(), 10).unwrap();
    assert_eq!(
        found.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [2, 1],
        "newest first"
    );
    assert_eq!(found[1].event, events[0]);
}

#[test]
fn each_filter_takes_what_it_says() {
    let (_scratch, mut book) = book();
    let mut refused = event(3, "x", "x", "authenticate", 401);
    refused.actor = None;
    refused.claimed = Some("mallory".into());
    book.add(&[
        event(1, "alice", "red", "create", 202),
        event(2, "bob", "blue", "delete:metadata", 403),
        refused,
    ])
    .unwrap();
    let ids = |filter: Filter| book.find(&filter, 10).unwrap().iter().map(|e| e.id).collect::<Vec<_>>();
    let text = |text: &str| Some(text.to_owned());
    let all = Filter::default();
    for (filter, wanted) in [
        (
            Filter {
                project: text("red"),
                ..all.clone()
            },
            vec![1],
        ),
        (
            Filter {
                project: text("blue-id"),
                ..all.clone()
            },
            vec![2],
        ),
        (
            Filter {
                project_id: text("red"),
                ..all.clone()
            },
            vec![],
        ),
        (
            Filter {
                user: text("alice-id"),
                ..all.clone()
            },
            vec![1],
        ),
        (
            Filter {
                user: text("mallory"),
                ..all.clone()
            },
            vec![3],
        ),
        (
            Filter {
                action: text("delete"),
                ..all.clone()
            },
            vec![2],
        ),
        (
            Filter {
                action: text("del"),
                ..all.clone()
            },
            vec![],
        ),
        (
            Filter {
                succeeded: Some(false),
                ..all.clone()
            },
            vec![3, 2],
        ),
        (
            Filter {
                status: Some(202),
                ..all.clone()
            },
            vec![1],
        ),
        (
            Filter {
                request_id: text("req-2"),
                ..all.clone()
            },
            vec![2],
        ),
        (
            Filter {
                resource_id: text("s1' OR 1=1"),
                ..all.clone()
            },
            vec![],
        ),
        (
            Filter {
                since: Timestamp::from_second(2).ok(),
                ..all.clone()
            },
            vec![3, 2],
        ),
        (
            Filter {
                until: Timestamp::from_second(2).ok(),
                ..all.clone()
            },
            vec![1],
        ),
        (
            Filter {
                after: Some(2),
                ..all.clone()
            },
            vec![1],
        ),
        (
            Filter {
                after: Some(2),
                order: Order::OldestFirst,
                ..all.clone()
            },
            vec![3],
        ),
    ] {
        assert_eq!(ids(filter.clone()), wanted, "{filter:?}");
    }
}

#[test]
fn age_and_size_bound_it_and_ids_are_never_used_again() {
    let (_scratch, mut book) = book();
    let now = Timestamp::from_second(1_000_000).unwrap();
    let many: Vec<Event> = (0..5_000)
        .map(|n| event(999_000 + n / 10, "a", "p", "create", 202))
        .collect();
    book.add(&[event(10, "old", "p", "create", 202)]).unwrap();
    book.add(&many).unwrap();
    let keep = Keep {
        age: SignedDuration::from_hours(24),
        bytes: u64::MAX,
    };
    while book.trim(keep, now).unwrap() {}
    let oldest = Filter {
        order: Order::OldestFirst,
        ..Filter::default()
    };
    assert_eq!(book.find(&oldest, 1).unwrap()[0].id, 2, "the old one is gone");
    let keep = Keep { bytes: 600_000, ..keep };
    for _ in 0..10 {
        book.trim(keep, now).unwrap();
    }
    assert!(used_bytes(&book.connection).unwrap() <= 600_000);
    let left = book.find(&oldest, 10_000).unwrap();
    assert!(
        !left.is_empty() && left.last().unwrap().id == 5_001,
        "the newest are left"
    );
    book.trim(
        Keep {
            age: SignedDuration::ZERO,
            bytes: 0,
        },
        now,
    )
    .unwrap();
    book.add(&many[..1]).unwrap();
    assert_eq!(book.find(&Filter::default(), 1).unwrap()[0].id, 5_002);
}

#[test]
fn it_is_not_rewritten_and_long_texts_are_cut() {
    let (_scratch, mut book) = book();
    let mut long = event(1, "a", "p", "create", 202);
    long.path = "/ü".repeat(5_000);
    book.add(&[long]).unwrap();
    assert!(book.find(&Filter::default(), 1).unwrap()[0].event.path.len() <= LONGEST_TEXT);
    let error = book
        .connection
        .execute("UPDATE events SET status = 200", [])
        .unwrap_err();
    assert!(error.to_string().contains("not rewritten"), "{error}");
}
