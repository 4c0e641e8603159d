//! Rules that hold in every template.

use std::collections::BTreeSet;

use millrace_infra::Template;

use crate::{
    applications::{shop, sized},
    reader::{read, section, walk},
};

#[test]
fn the_same_description_renders_the_same_templates() {
    assert_eq!(shop().render().unwrap(), shop().render().unwrap());
}

#[test]
fn whatever_a_template_refers_to_it_has() {
    for stack in [shop(), sized(6, 40), millrace_infra::Stack::new("counter")] {
        for template in stack.render().unwrap().in_order() {
            let known: BTreeSet<String> = ["Parameters", "Resources"]
                .iter()
                .flat_map(|name| section(template, name).into_keys())
                .collect();
            for name in references(template) {
                let known = known.contains(&name) || name.starts_with("AWS::") || name == "Issuer";
                assert!(known, "{} refers to {name}", template.name());
            }
        }
    }
}

#[test]
fn every_parameter_and_condition_is_used() {
    for stack in [shop(), millrace_infra::Stack::new("counter")] {
        for template in stack.render().unwrap().in_order() {
            let referred = references(template);
            for parameter in template.parameters() {
                assert!(referred.contains(*parameter), "{}: {parameter}", template.name());
            }
            for condition in section(template, "Conditions").keys() {
                let uses = template.body().matches(condition.as_str()).count();
                assert!(uses > 1, "{}: {condition}", template.name());
            }
        }
    }
}

#[test]
fn the_lists_of_parameters_and_outputs_are_those_of_the_text() {
    for template in shop().render().unwrap().in_order() {
        let parameters: BTreeSet<String> =
            template.parameters().iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(parameters, section(template, "Parameters").into_keys().collect());
        let outputs: BTreeSet<String> = template.outputs().iter().cloned().collect();
        assert_eq!(outputs, section(template, "Outputs").into_keys().collect());
        assert_eq!(template.resource_count(), section(template, "Resources").len());
    }
}

#[test]
fn no_two_stacks_have_the_same_output() {
    let templates = shop().render().unwrap();
    let all: Vec<&String> = templates.in_order().flat_map(Template::outputs).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn every_template_parameter_and_policy_has_a_description() {
    for template in shop().render().unwrap().in_order() {
        assert!(read(template)["Description"].as_str().is_some());
        for (name, parameter) in section(template, "Parameters") {
            assert!(parameter["Description"].as_str().is_some(), "{name}");
        }
    }
}

/// The names in `Ref` and in the placeholders of `Fn::Sub`.
fn references(template: &Template) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(&read(template), &mut |value| {
        names.extend(value["Ref"].as_str().map(str::to_owned));
        let sub = &value["Fn::Sub"];
        let text = sub.as_str().or(sub[0].as_str());
        for placeholder in text.into_iter().flat_map(|text| text.split("${").skip(1)) {
            let name = placeholder.split('}').next().unwrap_or_default();
            names.insert(name.split('.').next().unwrap_or_default().to_owned());
        }
    });
    names
}
