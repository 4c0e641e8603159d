//! Small words for the parts of a template.
//!
//! Intrinsic functions are written in their long form (`Fn::Sub`), so that any YAML reader can load a template.

pub(crate) use yaml_rust2::Yaml;
use yaml_rust2::{YamlEmitter, yaml::Hash};

pub(crate) fn text(text: impl Into<String>) -> Yaml {
    Yaml::String(text.into())
}

pub(crate) fn number(number: u32) -> Yaml {
    Yaml::Integer(number.into())
}

pub(crate) fn flag(flag: bool) -> Yaml {
    Yaml::Boolean(flag)
}

pub(crate) fn list(items: impl IntoIterator<Item = Yaml>) -> Yaml {
    Yaml::Array(items.into_iter().collect())
}

pub(crate) fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Yaml {
    list(items.into_iter().map(text))
}

/// A map that keeps the order of its entries.
pub(crate) fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Yaml)>) -> Yaml {
    let entries = entries.into_iter().map(|(key, value)| (text(key), value));
    Yaml::Hash(entries.collect::<Hash>())
}

/// The value of a parameter or the name of a resource.
pub(crate) fn reference(name: &str) -> Yaml {
    map([("Ref", text(name))])
}

/// A text with placeholders, such as `${Prefix}-events` or `${Queue.Arn}`.
pub(crate) fn sub(template: impl Into<String>) -> Yaml {
    map([("Fn::Sub", text(template))])
}

/// The ARN of a resource of the same template.
pub(crate) fn arn_of(resource: &str) -> Yaml {
    sub(format!("${{{resource}.Arn}}"))
}

pub(crate) fn either(condition: &str, then: Yaml, otherwise: Yaml) -> Yaml {
    map([("Fn::If", list([text(condition), then, otherwise]))])
}

/// A value under a condition, and nothing without it.
pub(crate) fn only_if(condition: &str, value: Yaml) -> Yaml {
    either(condition, value, reference("AWS::NoValue"))
}

pub(crate) fn equals(parameter: &str, value: &str) -> Yaml {
    map([("Fn::Equals", list([reference(parameter), text(value)]))])
}

pub(crate) fn not(condition: Yaml) -> Yaml {
    map([("Fn::Not", list([condition]))])
}

/// Writes a document, each map in the order of its entries.
pub(crate) fn written(document: &Yaml) -> String {
    let mut body = String::new();
    let mut emitter = YamlEmitter::new(&mut body);
    emitter.multiline_strings(true);
    // A `String` accepts everything that is written to it.
    let _ = emitter.dump(document);
    let body = body.strip_prefix("---\n").unwrap_or(&body);
    format!("{body}\n")
}
