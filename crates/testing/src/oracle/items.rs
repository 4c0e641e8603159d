//! Rows as items of a table: the oracle's own words for the layout that stores write.
//!
//! | item | key | attributes beside the version and the provenance |
//! |---|---|---|
//! | a row | `<tenant>#<id>` | its own but its id; for each index the key, for each list its position |
//! | a sum | `<tenant>#<id>` | the same, and `Parts` |
//! | a part | `<tenant>@<aggregate id>` | `Part`, and `Target`, the key of its sum |
//! | a place without a row | as the row | `Absent` |

use millrace_core::{
    projection::{ProjectionError, ProjectionSpec},
    row::{Attributes, IndexedAttribute, RowKey, UnusableAttribute},
};
use serde_json::Value;
use uuid::Uuid;

use super::{ExpectedRow, Oracle, RowPlace, Rows, States};

impl Oracle {
    /// The final rows as their tables hold them, where the keys of hot lists are spread over `shards` shards. Neither
    /// the key, the version nor the provenance is among the attributes.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn items(&self, shards: u16) -> Result<Rows, ProjectionError> {
        let last = |(place, mut states): (_, Vec<ExpectedRow>)| Some((place, states.pop()?));
        Ok(self.item_states(shards)?.into_iter().filter_map(last).collect())
    }

    /// Every state that each row goes through, as its table holds it.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn item_states(&self, shards: u16) -> Result<States, ProjectionError> {
        let mut states = self.states()?;
        for (place, states) in &mut states {
            let spec = self.application().projections().iter().find(|spec| spec.name == place.projection);
            for row in states.iter_mut() {
                row.attributes = item(spec, place, row, shards)?;
            }
        }
        Ok(states)
    }
}

fn item(
    spec: Option<&ProjectionSpec>,
    place: &RowPlace,
    row: &ExpectedRow,
    shards: u16,
) -> Result<Attributes, ProjectionError> {
    let mut item = row.attributes.clone();
    let mut set = |name: &str, value: Value| drop(item.insert(name.to_owned(), value));
    if row.attributes.is_empty() {
        set("Absent", true.into());
    }
    if let Some(parts) = row.parts {
        set("Parts", parts.into());
    }
    if let Some(target) = &row.target {
        set("Target", target.to_string().into());
    }
    let (Some(spec), false, false) = (spec, place.is_part, row.attributes.is_empty()) else {
        return Ok(item);
    };
    let RowKey { tenant, id } = &place.key;
    let text = |by: &IndexedAttribute| (by.text)(row.attributes.get(by.name)?);
    for list in spec.schema.lists {
        if let Some(value) = text(&list.by) {
            let shard = if list.sharded { format!("#{}", shard(id, shards)) } else { String::new() };
            set(&list.hash_attribute(), format!("{tenant}#{value}{shard}").into());
        }
        if let Some(at) = text(&list.order_by) {
            set(&list.range_attribute(), format!("{at}#{id}").into());
        }
    }
    for lookup in spec.schema.lookups {
        if let Some(value) = text(&lookup.by) {
            set(&lookup.hash_attribute(), format!("{tenant}#{value}").into());
        }
    }
    item.remove(spec.schema.id).ok_or(UnusableAttribute(spec.schema.id))?;
    Ok(item)
}

/// The shard of a row: a remainder of its id, where it is a UUID, else of the UUID (version 5) of its text.
fn shard(id: &str, shards: u16) -> u128 {
    let id = id.parse().unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()));
    id.as_u128() % u128::from(shards)
}
