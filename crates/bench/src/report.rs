//! The rows, as a table in Markdown.

use std::{fs, path::Path};

use anyhow::Context;

use crate::measure::Measure;

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// As with milliseconds.
    Lower,
    /// As with requests a second.
    Higher,
}

/// What was measured, row by row.
#[derive(Default)]
pub struct Report {
    rows: Vec<String>,
}

impl Report {
    /// Adds what was measured, each repetition a value, beside the wanted bound.
    pub fn add(&mut self, what: &str, unit: &str, values: &[f64], wanted: f64, better: Better) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(lowest), Some(highest)) = (sorted.first(), sorted.last()) else {
            return;
        };
        let median = sorted[sorted.len() / 2];
        let (sign, ratio) = match better {
            Better::Lower => ("≤", wanted / median),
            Better::Higher => ("≥", median / wanted),
        };
        self.rows.push(format!(
            "| {what} | {unit} | {} | {} … {} ({}) | {sign} {} | {ratio:.1}× |",
            number(median),
            number(*lowest),
            number(*highest),
            values.len(),
            number(wanted),
        ));
        eprintln!("  {what}: {} {unit}", number(median));
    }

    /// Notes that a measure could not be taken.
    pub fn failed(&mut self, measure: Measure, why: &str) {
        eprintln!("  could not be measured: {why}");
        self.rows
            .push(format!("| {measure:?} | | could not be measured | | | |"));
    }

    /// All rows. The last column says by how much it is better than wanted: below 1 it is not.
    pub fn table(&self) -> String {
        let head =
            "| what | unit | median | lowest … highest (times) | wanted | ratio |\n|---|---|---:|---:|---:|---:|";
        let rows: String = self.rows.iter().flat_map(|row| ["\n", row]).collect();
        format!(
            "Measured {} on {}.\n\n{head}{rows}",
            jiff::Zoned::now().date(),
            machine()
        )
    }

    /// Puts the table between the marks of a file.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .with_context(|| format!("{} has no {BEGIN}", file.display()))?;
        let (_, after) = rest
            .split_once(END)
            .with_context(|| format!("{} has no {END}", file.display()))?;
        fs::write(file, format!("{before}{BEGIN}\n{}\n{END}{after}", self.table()))?;
        Ok(())
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({}), Linux {}",
        model.unwrap_or("unknown"),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_set_beside_the_wish() {
        let mut report = Report::default();
        report.add("list", "ms", &[9.0, 1.0, 5.0], 10.0, Better::Lower);
        report.add("rate", "1/s", &[150.0], 100.0, Better::Higher);
        assert_eq!(report.rows[0], "| list | ms | 5.00 | 1.00 … 9.00 (3) | ≤ 10.0 | 2.0× |");
        assert_eq!(report.rows[1], "| rate | 1/s | 150 | 150 … 150 (1) | ≥ 100 | 1.5× |");
    }

    #[test]
    fn the_table_goes_between_the_marks() {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        fs::write(scratch.path(), format!("a\n{BEGIN}\nold\n{END}\nb\n")).unwrap();
        Report::default().write(scratch.path()).unwrap();
        let text = fs::read_to_string(scratch.path()).unwrap();
        assert!(
            text.starts_with("a\n<!--") && text.ends_with("-->\nb\n") && !text.contains("old"),
            "{text}"
        );
    }
}
