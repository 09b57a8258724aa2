//! Moments, as containers and objects carry them: microseconds since 1970.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// A moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp(
    /// Microseconds since 1970.
    pub u64,
);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        Self(Timestamp::now().as_microsecond().unsigned_abs())
    }

    /// Now, and later than `before` in what is shown of it.
    pub fn after(before: Option<Self>) -> Self {
        let now = Self::now();
        match before {
            Some(before) if now.0 / 10 <= before.0 / 10 => Self(before.0 + 10),
            _ => now,
        }
    }

    /// Whole seconds.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The seconds as HTTP headers have them: `Sun, 06 Nov 1994 08:49:37 GMT`. A part of a second counts as a whole one, so
    /// that nothing is newer than it says.
    pub fn http(self) -> String {
        let seconds = i64::try_from(self.0.div_ceil(1_000_000)).unwrap_or_default();
        let at = Timestamp::from_second(seconds).unwrap_or_default();
        at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// `2026-11-21T02:30:00.123450`, as listings have it.
    pub fn iso(self) -> String {
        let micros = i64::try_from(self.0 / 10 * 10).unwrap_or_default();
        let at = Timestamp::from_microsecond(micros).unwrap_or_default();
        at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
    }

    /// Reads what [`Stamp`] is written as.
    pub fn parse(text: &str) -> Option<Self> {
        let (seconds, parts) = text.split_once('.')?;
        let parts: String = parts.chars().chain("000000".chars()).take(6).collect();
        let micros: u64 = parts.parse().ok()?;
        seconds
            .parse::<u64>()
            .ok()?
            .checked_mul(1_000_000)?
            .checked_add(micros)
            .map(Self)
    }
}

impl fmt::Display for Stamp {
    /// `1389453423.35964`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}.{:05}", self.0 / 1_000_000, self.0 % 1_000_000 / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_swift_does() {
        let at = Stamp(1_389_453_423_359_640);
        assert_eq!(at.to_string(), "1389453423.35964");
        assert_eq!(Stamp::parse("1389453423.35964"), Some(at));
        assert_eq!(at.http(), "Sat, 11 Jan 2014 15:17:04 GMT");
        assert_eq!(at.iso(), "2014-01-11T15:17:03.359640");
        assert!(Stamp::after(Some(Stamp(u64::MAX / 2))).0 > u64::MAX / 2);
    }
}
