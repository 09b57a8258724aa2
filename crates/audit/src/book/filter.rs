//! Which events are asked for.

use jiff::Timestamp;
use rusqlite::types::Value;

/// What must hold of the events; an empty one takes all, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// By the project's id or name.
    pub project: Option<String>,
    /// By the project's id alone: what a reader of that project may see.
    pub project_id: Option<String>,
    /// By the user's id or name, or by who a refused login said to be.
    pub user: Option<String>,
    /// By face: `compute`.
    pub service: Option<String>,
    /// By what was done; `delete` also takes `delete:metadata`.
    pub action: Option<String>,
    /// By collection: `servers`.
    pub resource: Option<String>,
    /// By the resource's id.
    pub resource_id: Option<String>,
    /// By the answer's status.
    pub status: Option<u16>,
    /// Only those that were done, or only those that were not.
    pub succeeded: Option<bool>,
    /// By the request's own or its chain's id.
    pub request_id: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// Those that come after the one with this id, in `order`.
    pub after: Option<i64>,
    /// Which come first.
    pub order: Order,
}

/// Which events come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The last ones.
    #[default]
    NewestFirst,
    /// As they happened.
    OldestFirst,
}

impl Order {
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::NewestFirst => "DESC",
            Self::OldestFirst => "ASC",
        }
    }
}

impl Filter {
    /// As a condition of SQL with the values for its question marks.
    pub(super) fn condition(&self) -> (String, Vec<Value>) {
        let mut all = Conditions::default();
        if let Some(project) = &self.project {
            all.add("(project = ? OR event ->> 'project_name' = ?)", [project, project]);
        }
        if let Some(project) = &self.project_id {
            all.add("project = ?", [project]);
        }
        if let Some(user) = &self.user {
            let sql = "(user = ? OR event ->> 'user_name' = ? OR event ->> 'claimed' = ?)";
            all.add(sql, [user, user, user]);
        }
        let texts = [
            ("service = ?", &self.service),
            ("resource = ?", &self.resource),
            ("resource_id = ?", &self.resource_id),
        ];
        for (sql, value) in texts {
            if let Some(value) = value {
                all.add(sql, [value]);
            }
        }
        if let Some(action) = &self.action {
            let part = format!("{action}:");
            all.add(
                "(action = ? OR substr(action, 1, length(?)) = ?)",
                [action, &part, &part],
            );
        }
        if let Some(id) = &self.request_id {
            let sql = "(event ->> 'request_id' = ? OR event ->> 'global_request_id' = ?)";
            all.add(sql, [id, id]);
        }
        if let Some(status) = self.status {
            all.add("status = ?", [i64::from(status)]);
        }
        match self.succeeded {
            Some(true) => all.add("status < 400", [] as [i64; 0]),
            Some(false) => all.add("status >= 400", [] as [i64; 0]),
            None => {}
        }
        if let Some(since) = self.since {
            all.add("time >= ?", [since.as_microsecond()]);
        }
        if let Some(until) = self.until {
            all.add("time < ?", [until.as_microsecond()]);
        }
        match (self.after, self.order) {
            (Some(id), Order::NewestFirst) => all.add("id < ?", [id]),
            (Some(id), Order::OldestFirst) => all.add("id > ?", [id]),
            (None, _) => {}
        }
        all.finish()
    }
}

#[derive(Default)]
struct Conditions {
    sql: Vec<&'static str>,
    values: Vec<Value>,
}

impl Conditions {
    fn add<V: IntoValue, const N: usize>(&mut self, sql: &'static str, values: [V; N]) {
        self.sql.push(sql);
        self.values.extend(values.into_iter().map(IntoValue::into_value));
    }

    fn finish(self) -> (String, Vec<Value>) {
        if self.sql.is_empty() {
            return ("1".to_owned(), self.values);
        }
        (self.sql.join(" AND "), self.values)
    }
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for &String {
    fn into_value(self) -> Value {
        Value::Text(self.clone())
    }
}

impl IntoValue for i64 {
    fn into_value(self) -> Value {
        Value::Integer(self)
    }
}
