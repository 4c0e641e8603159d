//! A template, and the limits of CloudFormation.

use crate::{
    InfraError,
    yaml::{Yaml, map, text, written},
};

/// The bytes that `CreateStack` accepts without S3 (CloudFormation User Guide, "Quotas").
const MAX_BYTES: usize = 51_200;
const MAX_RESOURCES: usize = 500;
const MAX_PARAMETERS: usize = 200;
const MAX_OUTPUTS: usize = 200;

/// The first line of everything that is rendered.
pub(crate) const RENDERED: &str =
    "# Rendered from the application's registration: change that, and render again.\n";

/// The prefix as the templates know it: the value of their parameter.
pub(crate) const PREFIX: &str = "${Prefix}";

/// A CloudFormation template, with its name and the needs of its deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    name: String,
    body: String,
    parameters: Vec<&'static str>,
    outputs: Vec<String>,
    resources: usize,
}

impl Template {
    /// Its name, such as `data` or `order-summaries-v1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its file, such as `data.yaml`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.yaml", self.name)
    }

    /// The name of its stack by convention, such as `shop-data`.
    #[must_use]
    pub fn stack_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.name)
    }

    /// Its text: YAML without short forms such as `!Ref`, the same for the same description.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The names of its parameters. CloudFormation refuses others.
    #[must_use]
    pub fn parameters(&self) -> &[&'static str] {
        &self.parameters
    }

    /// The names of its outputs.
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The number of its resources.
    #[must_use]
    pub fn resource_count(&self) -> usize {
        self.resources
    }
}

/// Parameters with the conditions that depend on them.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) parameters: Vec<(&'static str, Yaml)>,
    pub(crate) conditions: Vec<(&'static str, Yaml)>,
}

/// A template in the making.
pub(crate) struct Draft {
    description: &'static str,
    settings: Settings,
    resources: Vec<(String, Yaml)>,
    outputs: Vec<(String, Yaml)>,
}

impl Draft {
    pub(crate) fn new(description: &'static str) -> Self {
        Self { description, settings: Settings::default(), resources: Vec::new(), outputs: Vec::new() }
    }

    pub(crate) fn settings(&mut self, settings: Settings) {
        self.settings.parameters.extend(settings.parameters);
        self.settings.conditions.extend(settings.conditions);
    }

    pub(crate) fn resource(&mut self, logical: impl Into<String>, resource: Yaml) {
        self.resources.push((logical.into(), resource));
    }

    pub(crate) fn resources(&mut self, resources: impl IntoIterator<Item = (String, Yaml)>) {
        self.resources.extend(resources);
    }

    pub(crate) fn output(&mut self, name: impl Into<String>, value: Yaml) {
        self.outputs.push((name.into(), map([("Value", value)])));
    }

    pub(crate) fn output_if(&mut self, condition: &str, name: impl Into<String>, value: Yaml) {
        self.outputs.push((name.into(), map([("Condition", text(condition)), ("Value", value)])));
    }

    /// Writes the template, unless it would pass a limit.
    pub(crate) fn finish(
        self,
        name: impl Into<String>,
        way_out: &'static str,
    ) -> Result<Template, InfraError> {
        let name = name.into();
        let parameters: Vec<_> = self.settings.parameters.iter().map(|(name, _)| *name).collect();
        let outputs: Vec<_> = self.outputs.iter().map(|(name, _)| name.clone()).collect();
        let resources = self.resources.len();
        let body = self.body();
        for (found, unit, limit) in [
            (body.len(), "bytes", MAX_BYTES),
            (resources, "resources", MAX_RESOURCES),
            (parameters.len(), "parameters", MAX_PARAMETERS),
            (outputs.len(), "outputs", MAX_OUTPUTS),
        ] {
            if found > limit {
                let subject = format!("the template \"{name}\"");
                return Err(InfraError::Limit { subject, found, unit, limit, way_out });
            }
        }
        Ok(Template { name, body, parameters, outputs, resources })
    }

    fn body(self) -> String {
        let mut sections = vec![
            ("AWSTemplateFormatVersion", text("2010-09-09")),
            ("Description", text(self.description)),
            ("Parameters", map(self.settings.parameters)),
        ];
        if !self.settings.conditions.is_empty() {
            sections.push(("Conditions", map(self.settings.conditions)));
        }
        sections.push(("Resources", map(self.resources)));
        sections.push(("Outputs", map(self.outputs)));
        format!("{RENDERED}{}", written(&map(sections)))
    }
}

/// A resource of a type with its properties.
pub(crate) fn resource<K: Into<String>>(kind: &str, properties: impl IntoIterator<Item = (K, Yaml)>) -> Yaml {
    map([("Type", text(kind)), ("Properties", map(properties))])
}

/// A resource that exists under a condition.
pub(crate) fn resource_if<K: Into<String>>(
    condition: &str,
    kind: &str,
    properties: impl IntoIterator<Item = (K, Yaml)>,
) -> Yaml {
    map([("Type", text(kind)), ("Condition", text(condition)), ("Properties", map(properties))])
}
