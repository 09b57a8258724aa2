//! A task: something that Glance does to images in the background, and how far it is.
//!
//! Tasks are written by whoever begins one and by its own end; what runs is a task of the library's. One that a stop
//! interrupts has failed, and its image is as before: nothing stays on its way.

pub(crate) mod api;

use jiff::{SignedDuration, Timestamp};
use madang_store::{Cause, Indexes, Kind, Metadata, Resource, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Glance's `task_time_to_live`, from its end on.
const KEPT: SignedDuration = SignedDuration::from_hours(48);

/// The kind of tasks. `metadata.name` is the id, `metadata.project` the owner.
pub struct Task;

impl Kind for Task {
    const NAME: &'static str = "imagetasks";
    type Spec = TaskSpec;
    type Status = TaskStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("image", |r| r.spec.image.iter().cloned().collect())
            .on("state", |r| vec![r.status.state.as_str().to_owned()])
    }
}

/// What was asked. Written once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// `api_image_import`, or `import` where it was asked for by itself.
    pub kind: String,
    /// The image.
    #[serde(default)]
    pub image: Option<String>,
    /// What was said.
    #[serde(default)]
    pub input: Value,
    /// The user who asked.
    pub user: String,
    /// The request that asked.
    pub request: String,
}

/// Where a task is on its way. Source: Glance's task states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Under way.
    #[default]
    Processing,
    /// Done.
    Success,
    /// Could not be done.
    Failure,
}

impl TaskState {
    /// Glance's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// What is seen of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Where it is on its way.
    #[serde(default)]
    pub state: TaskState,
    /// What went wrong.
    #[serde(default)]
    pub message: String,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
}

/// When a task that has ended may go.
pub(crate) fn expires(task: &Resource<Task>) -> Option<Timestamp> {
    let ended = task.status.ended?;
    Some(ended.saturating_add(KEPT).unwrap_or(Timestamp::MAX))
}

/// Writes down that something begins. What ended long ago goes on this occasion.
pub(crate) fn begin(
    tx: &mut Tx<'_>,
    project: &str,
    spec: TaskSpec,
) -> Result<std::sync::Arc<Resource<Task>>, StoreError> {
    let now = tx.at();
    for old in tx.store().cache::<Task>().in_project(project) {
        if expires(&old).is_some_and(|at| at <= now) {
            tx.delete(&old)?;
        }
    }
    tx.create(Resource::<Task>::new(Metadata::with_id(project), spec))
}

/// Writes down how something ended.
pub(crate) fn end(tx: &mut Tx<'_>, task: &Resource<Task>, failure: Option<&str>) -> Result<(), StoreError> {
    let Some(now) = tx.get::<Task>(&task.key()) else {
        return Ok(());
    };
    let mut new = (*now).clone();
    new.status.state = if failure.is_some() {
        TaskState::Failure
    } else {
        TaskState::Success
    };
    new.status.message = failure.unwrap_or_default().to_owned();
    new.status.ended = Some(tx.at());
    tx.update(&now, new).map(|_| ())
}

/// Ends what a stop interrupted. For the start.
pub(crate) async fn end_interrupted(store: &Store) -> Result<(), StoreError> {
    for task in store.cache::<Task>().by("state", TaskState::Processing.as_str()) {
        let ended = store.transact::<(), StoreError>(Cause::system("image"), |tx| {
            end(tx, &task, Some("madang was stopped meanwhile: ask again"))
        });
        ended.await?;
    }
    Ok(())
}
