//! Templates as CloudFormation would see them.

use std::collections::BTreeMap;

use millrace_infra::Template;
use yaml_rust2::{Yaml, YamlLoader};

/// A template's document.
pub(crate) fn read(template: &Template) -> Yaml {
    YamlLoader::load_from_str(template.body()).unwrap().remove(0)
}

/// A section of a template, by the names of its entries.
pub(crate) fn section(template: &Template, name: &str) -> BTreeMap<String, Yaml> {
    let document = read(template);
    let Some(entries) = document[name].as_hash() else { return BTreeMap::new() };
    entries.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), value.clone())).collect()
}

/// The resources of a type, by their logical names.
pub(crate) fn of_type(template: &Template, kind: &str) -> BTreeMap<String, Yaml> {
    let mut resources = section(template, "Resources");
    resources.retain(|_, resource| resource["Type"].as_str() == Some(kind));
    resources
}

/// A resource's properties.
pub(crate) fn properties(template: &Template, logical: &str) -> Yaml {
    section(template, "Resources")[logical]["Properties"].clone()
}

/// A text, or the template of an `Fn::Sub`.
pub(crate) fn text(value: &Yaml) -> String {
    let text = value.as_str().or(value["Fn::Sub"].as_str()).unwrap_or_else(|| panic!("no text: {value:?}"));
    text.to_owned()
}

/// The texts of a list.
pub(crate) fn texts(value: &Yaml) -> Vec<String> {
    value.as_vec().unwrap_or_else(|| panic!("no list: {value:?}")).iter().map(text).collect()
}

/// The name of the resource or parameter that a value refers to.
pub(crate) fn referred(value: &Yaml) -> &str {
    value["Ref"].as_str().unwrap_or_else(|| panic!("no reference: {value:?}"))
}

/// Visits a value and everything within it.
pub(crate) fn walk(value: &Yaml, visit: &mut impl FnMut(&Yaml)) {
    visit(value);
    match value {
        Yaml::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Yaml::Hash(entries) => entries.iter().for_each(|(_, entry)| walk(entry, visit)),
        Yaml::String(_)
        | Yaml::Integer(_)
        | Yaml::Real(_)
        | Yaml::Boolean(_)
        | Yaml::Alias(_)
        | Yaml::Null
        | Yaml::BadValue => {}
    }
}
