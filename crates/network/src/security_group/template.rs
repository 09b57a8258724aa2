//! Templates of rules: what every new security group has. Admins change them; groups that are there keep what they have.
//!
//! Until an admin says otherwise there are Neutron's: everything out of every group, and into default groups what their
//! members send.

use madang_store::{Kind, Metadata, Op, Resource, StoreBuilder, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Direction, EtherType, RuleSpec, rules};
use crate::refusal;

/// What a template has as its peers' group where it means the group that is made.
pub(crate) const PARENT: &str = "PARENT";
/// Under which the ids of the first templates are made: any fixed value does.
const FIRST: Uuid = Uuid::from_u128(0x6d61_6461_6e67_4573_8065_7465_6d70_6c73);

/// The kind of templates. `metadata.name` is the id; they are no project's.
pub struct RuleTemplate;

impl Kind for RuleTemplate {
    const NAME: &'static str = "securitygroupruletemplates";
    type Spec = RuleTemplateSpec;
    type Status = RuleTemplateStatus;
}

/// What a rule will be, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleTemplateSpec {
    /// The rule, of no group; its peers' group may be `PARENT`, which is the group that it will be of.
    pub rule: RuleSpec,
    /// New default groups have it.
    pub used_in_default: bool,
    /// All other new groups have it.
    pub used_in_others: bool,
}

/// Nothing is seen of a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleTemplateStatus {}

/// The kind of the one record that says that Neutron's templates were made: who deletes them is not overruled.
struct Begun;

impl Kind for Begun {
    const NAME: &'static str = "securitygrouptemplatesbegun";
    type Spec = ();
    type Status = ();
}

/// Makes templates known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Begun>();
    builder.rule::<RuleTemplate>(|tx, op| match op {
        Op::Create(template) => create(tx, template),
        Op::Update { .. } => Ok(()),
        Op::Remove(template) => {
            for place in places(&template.spec) {
                tx.release(place, &rules::signature(&template.spec.rule));
            }
            Ok(())
        }
    });
}

/// Where a template is reserved: no two say the same of the same groups.
fn places(spec: &RuleTemplateSpec) -> impl Iterator<Item = &'static str> {
    let places = [
        (spec.used_in_default, "rule-template/default"),
        (spec.used_in_others, "rule-template/others"),
    ];
    places
        .into_iter()
        .filter_map(|(is_used, place)| is_used.then_some(place))
}

fn create(tx: &mut Tx<'_>, template: &mut Resource<RuleTemplate>) -> Result<(), StoreError> {
    rules::validate(&template.spec.rule)?;
    let wanted = rules::signature(&template.spec.rule);
    let meets = |other: &RuleTemplateSpec| {
        let (a, b) = (other, &template.spec);
        (a.used_in_default && b.used_in_default) || (a.used_in_others && b.used_in_others)
    };
    let known = all(tx);
    if let Some(same) = known
        .iter()
        .find(|other| meets(&other.spec) && rules::signature(&other.spec.rule) == wanted)
    {
        let message = format!(
            "Default Security group rule already exists. Rule id is {}.",
            same.name()
        );
        return Err(refusal::conflict("DefaultSecurityGroupRuleExists", message));
    }
    for place in places(&template.spec) {
        tx.reserve(place, &wanted, template.metadata.uid)?;
    }
    Ok(())
}

fn all(tx: &Tx<'_>) -> Vec<std::sync::Arc<Resource<RuleTemplate>>> {
    let cached = tx.store().cache::<RuleTemplate>().all();
    let mut all: Vec<_> = cached
        .iter()
        .filter_map(|one| tx.get::<RuleTemplate>(&one.key()))
        .collect();
    let staged = tx.staged::<RuleTemplate>();
    let new: Vec<_> = staged
        .filter(|staged| all.iter().all(|known| known.name() != staged.name()))
        .collect();
    all.extend(new);
    all
}

fn begun() -> madang_store::Key {
    madang_store::Key::new(Begun::NAME, "", "", "begun")
}

/// Whether Neutron's templates are still to be made.
pub(crate) fn are_missing(store: &madang_store::Store) -> bool {
    store.get::<Begun>(&begun()).is_none()
}

/// Makes Neutron's templates, once.
///
/// # Errors
/// The store's.
pub(crate) fn ensure(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    if tx.get::<Begun>(&begun()).is_some() {
        return Ok(());
    }
    tx.create(Resource::<Begun>::new(Metadata::new("", "begun"), ()))?;
    for ethertype in [EtherType::IPv4, EtherType::IPv6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            let is_out = direction == Direction::Egress;
            let way = if is_out { "egress" } else { "ingress" };
            let rule = RuleSpec {
                remote_group_id: (!is_out).then(|| PARENT.to_owned()),
                description: format!("Legacy default SG rule for {way} traffic"),
                ..RuleSpec::any("", direction, ethertype)
            };
            let spec = RuleTemplateSpec {
                rule,
                used_in_default: true,
                used_in_others: is_out,
            };
            let id = Uuid::new_v5(&FIRST, format!("{way} {ethertype:?}").as_bytes());
            let metadata = Metadata::with_uid(id, "", id.to_string());
            tx.create(Resource::<RuleTemplate>::new(metadata, spec))?;
        }
    }
    Ok(())
}

/// The rules of a new group.
///
/// # Errors
/// The store's.
pub(crate) fn rules_of(tx: &mut Tx<'_>, group: &str, is_default: bool) -> Result<Vec<RuleSpec>, StoreError> {
    ensure(tx)?;
    let mut used = all(tx);
    used.retain(|one| {
        if is_default {
            one.spec.used_in_default
        } else {
            one.spec.used_in_others
        }
    });
    used.sort_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    let rule = |template: &RuleTemplateSpec| {
        let mut rule = template.rule.clone();
        group.clone_into(&mut rule.group_id);
        if rule.remote_group_id.as_deref() == Some(PARENT) {
            rule.remote_group_id = Some(group.to_owned());
        }
        // As in Neutron: what the template says of itself is not said of rules.
        rule.description.clear();
        rule
    };
    Ok(used.iter().map(|template| rule(&template.spec)).collect())
}
