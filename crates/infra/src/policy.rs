//! Statements of IAM policies, and policies that keep within the size that IAM accepts.

use crate::{
    InfraError, ProjectionResources,
    error::SPLIT_APPLICATION,
    template::PREFIX,
    yaml::{Yaml, list, map, sub, text, texts},
};

/// The characters of a managed policy, without spaces (IAM User Guide, "IAM and AWS STS quotas").
const MAX_POLICY_LENGTH: usize = 6144;

/// Permission for some actions on some resources.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    sid: &'static str,
    actions: &'static [&'static str],
    /// ARNs with placeholders. A statement without any is left out.
    resources: Vec<String>,
}

impl Statement {
    pub(crate) fn new(
        sid: &'static str,
        actions: &'static [&'static str],
        resources: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { sid, actions, resources: resources.into_iter().collect() }
    }

    fn rendered(&self) -> Yaml {
        map([
            ("Sid", text(self.sid)),
            ("Effect", text("Allow")),
            ("Action", texts(self.actions.iter().copied())),
            (
                "Resource",
                list(self.resources.iter().map(|arn| if arn == "*" { text(arn) } else { sub(arn) })),
            ),
        ])
    }

    /// Its length in JSON, with the longest values of the placeholders.
    fn length(&self, prefix_length: usize) -> usize {
        let quoted = |length: usize| length + r#""","#.len();
        let frame = r#"{"Sid":"","Effect":"Allow","Action":[],"Resource":[]},"#.len() + self.sid.len();
        let actions: usize = self.actions.iter().map(|action| quoted(action.len())).sum();
        let resources: usize = self.resources.iter().map(|arn| quoted(resolved(arn, prefix_length))).sum();
        frame + actions + resources
    }
}

/// The length of an ARN once its placeholders are replaced by values as long as they come.
fn resolved(arn: &str, prefix_length: usize) -> usize {
    let values = [
        ("${AWS::Partition}", "aws-us-gov".len()),
        ("${AWS::Region}", "us-isof-south-1".len()),
        ("${AWS::AccountId}", "000000000000".len()),
        (PREFIX, prefix_length),
    ];
    values.into_iter().fold(arn.len(), |length, (placeholder, value)| {
        let count = arn.matches(placeholder).count();
        length + count * value - count * placeholder.len()
    })
}

/// The document of a policy.
pub(crate) fn document(statements: &[Statement]) -> Yaml {
    map([("Version", text("2012-10-17")), ("Statement", list(statements.iter().map(Statement::rendered)))])
}

/// The statements of one policy or, where they are too long for it, of several. All statements for a projection are in
/// the same policy.
pub(crate) fn policies(
    program: &str,
    fixed: &[Statement],
    projections: &[ProjectionResources],
    each: fn(&ProjectionResources) -> Vec<Statement>,
    prefix_length: usize,
) -> Result<Vec<Vec<Statement>>, InfraError> {
    let length = |statements: &[Statement]| {
        let frame = r#"{"Version":"2012-10-17","Statement":[]}"#.len();
        frame + statements.iter().map(|each| each.length(prefix_length)).sum::<usize>()
    };
    let mut full = Vec::new();
    let mut current = fixed.to_vec();
    for projection in projections {
        let added = each(projection);
        let alone = length(&added);
        if alone > MAX_POLICY_LENGTH {
            return Err(InfraError::Limit {
                subject: format!("the policy \"{program}\" for the projection \"{}\"", projection.id()),
                found: alone,
                unit: "characters",
                limit: MAX_POLICY_LENGTH,
                way_out: "Give the projection fewer indexes, or shorter names to them",
            });
        }
        let mut merged = current.clone();
        merge(&mut merged, added.clone());
        if length(&merged) <= MAX_POLICY_LENGTH {
            current = merged;
        } else {
            full.push(std::mem::replace(&mut current, added));
        }
    }
    full.push(current);
    for statements in &mut full {
        statements.retain(|each| !each.resources.is_empty());
    }
    full.retain(|statements| !statements.is_empty());
    within_a_role(program, full)
}

/// Adds the resources of statements to those with the same id.
fn merge(statements: &mut Vec<Statement>, added: Vec<Statement>) {
    for each in added {
        match statements.iter_mut().find(|statement| statement.sid == each.sid) {
            Some(statement) => {
                let present = statement.resources.clone();
                statement
                    .resources
                    .extend(each.resources.into_iter().filter(|added| !present.contains(added)));
            }
            None => statements.push(each),
        }
    }
}

/// Refuses more policies than a role accepts without a raised quota.
fn within_a_role(program: &str, policies: Vec<Vec<Statement>>) -> Result<Vec<Vec<Statement>>, InfraError> {
    const MAX_POLICIES: usize = 10;
    if policies.len() > MAX_POLICIES {
        return Err(InfraError::Limit {
            subject: format!("the role \"{program}\""),
            found: policies.len(),
            unit: "managed policies",
            limit: MAX_POLICIES,
            way_out: SPLIT_APPLICATION,
        });
    }
    Ok(policies)
}
