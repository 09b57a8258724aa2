//! `madang audit`: the trail in the data directory, whether or not the cloud is up. Who can read the directory may.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use comfy_table::{Table, presets::NOTHING};
use jiff::{SignedDuration, Timestamp, Unit};
use madang_audit::{Book, Entry, Filter, Order};

use crate::{
    cli::{self, Format, Outcome},
    data_dir::DataDir,
};

/// How many events a table shows where nothing is asked.
const SHOWN: usize = 100;
/// How many are read at a time.
const PAGE: usize = 1_000;
/// How often a follower looks for new ones.
const LOOK: Duration = Duration::from_millis(500);

/// Prints what was asked for.
///
/// # Errors
/// When there is no trail, or a time cannot be understood.
pub async fn run(data: &DataDir, asked: &cli::Audit) -> anyhow::Result<()> {
    data.require_used()?;
    let path = data.audit();
    if !path.exists() {
        bail!("nothing was recorded on {} yet", data.path().display());
    }
    let mut filter = filter(asked, Timestamp::now())?;
    let book = Book::read_only(&path)?;
    let mut last = match asked.limit.or((asked.format == Format::Table).then_some(SHOWN)) {
        Some(newest) => print_newest(&book, &filter, newest, asked.format)?,
        None => None,
    };
    filter.order = Order::OldestFirst;
    let all = asked.limit.is_none() && asked.format == Format::Json;
    if asked.follow && last.is_none() && !all {
        // Nothing fits yet: from what is last of all.
        last = book.find(&Filter::default(), 1)?.first().map(|entry| entry.id);
    }
    filter.after = last;
    if !all && !asked.follow {
        return Ok(());
    }
    loop {
        let found = book.find(&filter, PAGE)?;
        print(&found, asked.format)?;
        filter.after = found.last().map(|entry| entry.id).or(filter.after);
        if found.len() < PAGE {
            if !asked.follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The newest, as they happened. The id of the last one.
fn print_newest(book: &Book, filter: &Filter, newest: usize, format: Format) -> anyhow::Result<Option<i64>> {
    let mut found = book.find(filter, newest)?;
    found.reverse();
    print(&found, format)?;
    Ok(found.last().map(|entry| entry.id))
}

fn filter(asked: &cli::Audit, now: Timestamp) -> anyhow::Result<Filter> {
    let time = |text: &Option<String>, flag: &str| {
        let time = text.as_deref().map(|text| moment(text, now));
        time.transpose().with_context(|| format!("{flag} cannot be understood"))
    };
    Ok(Filter {
        project: asked.project.clone(),
        user: asked.user.clone(),
        service: asked.service.clone(),
        action: asked.action.clone(),
        resource: asked.resource.clone(),
        resource_id: asked.id.clone(),
        request_id: asked.request.clone(),
        succeeded: asked.outcome.map(|outcome| outcome == Outcome::Success),
        since: time(&asked.since, "--since")?,
        until: time(&asked.until, "--until")?,
        ..Filter::default()
    })
}

/// `2026-01-31T12:00:00Z`, or how long ago: `90s`, `30m`, `2h`, `7d`.
fn moment(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wanted = "a time such as 2026-01-31T12:00:00Z, or how long ago, such as 30m, 2h or 7d";
    let seconds = |unit: &str| {
        Some(match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        })
    };
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(split);
    let ago = seconds(unit).zip(count.parse::<i64>().ok());
    let ago = ago.and_then(|(seconds, count)| count.checked_mul(seconds));
    let ago = ago.with_context(|| format!("{text:?} is not {wanted}"))?;
    now.checked_sub(SignedDuration::from_secs(ago))
        .with_context(|| format!("{text:?} is too long ago"))
}

fn print(entries: &[Entry], format: Format) -> anyhow::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let text = match format {
        Format::Json => {
            let lines = entries.iter().map(serde_json::to_string);
            lines.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        Format::Table => table(entries).to_string(),
    };
    match writeln!(io::stdout(), "{text}") {
        // Who reads through `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    let head = [
        "time", "status", "user", "project", "source", "service", "action", "resource",
    ];
    table.load_style(NOTHING).set_header(head);
    for Entry { event, .. } in entries {
        let actor = event.actor.as_deref();
        let user = match (actor, &event.claimed) {
            (Some(actor), _) => actor.user_name.clone(),
            (None, Some(claimed)) => format!("({claimed})"),
            (None, None) => "-".to_owned(),
        };
        let project = actor.and_then(|actor| match (&actor.project_name, actor.system) {
            (None, true) => Some("(system)"),
            (name, _) => name.as_deref(),
        });
        let resource = match &event.resource_id {
            Some(id) => format!("{} {id}", event.resource),
            None => event.resource.clone(),
        };
        table.add_row([
            event.time.round(Unit::Second).unwrap_or(event.time).to_string(),
            event.status.to_string(),
            user,
            project.unwrap_or("-").to_owned(),
            event.source.map_or("-".to_owned(), |source| source.to_string()),
            event.service.clone(),
            event.action.clone(),
            resource,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_how_long_ago() {
        let now: Timestamp = "2026-03-02T00:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("30m", "2026-03-01T23:30:00Z"),
            ("1d", "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), wanted);
        }
        for bad in ["", "d", "5", "5y", "yesterday", "99999999999999999d", "ü"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }
}
