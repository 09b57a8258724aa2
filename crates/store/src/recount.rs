//! Counters brought to what is there.
//!
//! What is counted changes in the transaction that changes what is there, so the two agree after any crash. They do not
//! where something was there before it was counted, after a defect, or where a record was brought back by hand: the
//! domains compare at the start, and what is there is the truth.

use std::collections::BTreeSet;

use ahash::AHashMap;
use tracing::warn;

use crate::{Cause, Counters, Delta, Moment, Store, StoreError};

/// Counters put right in one transaction, at most.
const STEP: usize = 256;

/// Counters by project and group, as what is there adds up to.
#[derive(Clone, Debug, Default)]
pub struct Sums(AHashMap<(String, String), Counters>);

impl Sums {
    /// Adds to one field.
    pub fn add(&mut self, project: &str, group: &str, field: &str, amount: i64) {
        let fields = self.0.entry((project.to_owned(), group.to_owned())).or_default();
        match fields.get_mut(field) {
            Some(sum) => *sum += amount,
            None => _ = fields.insert(field.to_owned(), amount),
        }
    }
}

/// A counter that says something else than what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The project it counts for; empty for what belongs to the cloud.
    pub project: String,
    /// Its group.
    pub group: String,
    /// Its field.
    pub field: String,
    /// What it says.
    pub counted: i64,
    /// What is there.
    pub there: i64,
}

impl Store {
    /// Where the counters of the groups that `is_meant` names differ from what is there.
    pub fn drifts(&self, is_meant: impl Fn(&str) -> bool, there: impl FnOnce(&Moment<'_>) -> Sums) -> Vec<Drift> {
        // One moment: who writes changes both together.
        let moment = self.moment();
        let there = there(&moment).0;
        let counted = self.counted(is_meant);
        drop(moment);
        let groups: BTreeSet<&(String, String)> = there.keys().chain(counted.keys()).collect();
        let none = Counters::new();
        let mut drifts = Vec::new();
        for of in groups {
            let (counted, there) = (counted.get(of).unwrap_or(&none), there.get(of).unwrap_or(&none));
            for field in counted.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
                let of_field = |sums: &Counters| sums.get(field).copied().unwrap_or(0);
                if of_field(counted) != of_field(there) {
                    drifts.push(Drift {
                        project: of.0.clone(),
                        group: of.1.clone(),
                        field: field.clone(),
                        counted: of_field(counted),
                        there: of_field(there),
                    });
                }
            }
        }
        drifts
    }

    /// Brings the counters of the groups that `is_meant` names to what is there, and says in the log which were wrong. For
    /// the start of their domain; others may write meanwhile.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn recount(
        &self,
        cause: Cause,
        is_meant: impl Fn(&str) -> bool,
        there: impl FnOnce(&Moment<'_>) -> Sums,
    ) -> Result<Vec<Drift>, StoreError> {
        let drifts = self.drifts(is_meant, there);
        for some in drifts.chunks(STEP) {
            let mut tx = self.begin(cause.clone());
            for drift in some {
                let Drift {
                    project,
                    group,
                    field,
                    counted,
                    there,
                } = drift;
                warn!(project, group, field, counted, there, "a counter was wrong");
                // The difference stays right, whatever else is counted meanwhile.
                let delta = Delta {
                    field: field.clone(),
                    add: there - counted,
                    limit: None,
                };
                tx.add(project, group, vec![delta]);
            }
            tx.commit().await?;
        }
        Ok(drifts)
    }
}
