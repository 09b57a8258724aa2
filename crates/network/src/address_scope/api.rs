//! Address scopes as Neutron shows them.

use std::sync::Arc;

use madang_http::Query;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{AddressScope, AddressScopeSpec};
use crate::{
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, own_or_shared},
        view::View,
    },
    rbac::Shareable,
    refusal::{self, Missing},
};

fn ip_version(value: &Value) -> Result<Value, String> {
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(4 | 6) => Ok(number),
        _ => Err(format!("{} is not in [4, 6]", convert::quoted(value))),
    }
}

impl Exposed for AddressScope {
    const SINGULAR: &'static str = "address_scope";
    const PLURAL: &'static str = "address_scopes";
    const MISSING: Missing = Missing::AddressScope;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("ip_version", ip_version).required().fixed(),
        Attribute::new("shared", convert::flag).guarded_flag(),
    ];

    fn facts(context: &Context, scope: &Resource<Self>) -> Facts {
        Facts {
            is_shared: scope.spec.is_shared || context.is_shared(scope.name()),
            ..Facts::of(scope.project())
        }
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_shared(context, query, Shareable::AddressScope)
    }

    fn view(context: &Context, scope: &Resource<Self>) -> Map<String, Value> {
        View::bare(scope)
            .with("name", scope.spec.name.as_str())
            .with("ip_version", scope.spec.ip_version)
            .with("shared", Self::facts(context, scope).is_shared)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let spec = AddressScopeSpec {
            name: body.text("name").unwrap_or_default().to_owned(),
            ip_version: if body.number("ip_version") == Some(6) { 6 } else { 4 },
            is_shared: body.flag("shared").unwrap_or(false),
        };
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        body.set_text("name", &mut new.spec.name);
        body.set_flag("shared", &mut new.spec.is_shared);
        if old.spec.is_shared && !new.spec.is_shared {
            let message = format!(
                "Unable to update address scope {} : Shared address scope can't be unshared.",
                old.name()
            );
            return Err(refusal::bad("AddressScopeUpdateError", message).into());
        }
        Ok(tx.update(old, new)?)
    }
}
