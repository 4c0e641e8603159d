//! All templates of an application.

use crate::{InfraError, Stack, Template, access, application, check, data, names, projection};

/// The templates of an application, one for each stack.
///
/// # Why several stacks
///
/// A projection takes 11 KB and more, so five would not fit into a template of 51,200 bytes. A stack for a group of
/// projections would be fragile: a projection that came or went would move others between stacks, and CloudFormation
/// refuses a stack whose table still stands in another one. So every version of a projection is a stack of its own,
/// created when the version is built and deleted when it is retired. Nested stacks would need a bucket in S3, and would
/// delete a read model as soon as its projection is no longer registered.
///
/// Policies list every projection, and IAM limits their length. A policy that would be too long gets further parts,
/// each in a stack of its own (`service-access-2`), so the size of these templates is bounded as well. Policies hold
/// no data: a projection may move from one part to another.
///
/// # Why names, not exports
///
/// A stack refers to the resources of others by their [names](crate::names), not by `Fn::ImportValue`. An exported value
/// cannot change while another stack imports it: no table could be replaced by a restored one, and every later change
/// would have an order. The services derive the same names from the prefix, so there is one convention instead of two.
/// Where IAM needs an ARN, it is made of the name; the stream of the event store, whose ARN ends with a time, is
/// `stream/*` of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Templates {
    /// Event store, unique keys, snapshots and leases of relays.
    pub data: Template,
    /// Event bus, archive, undelivered events, and the alarm of the relay.
    pub application: Template,
    /// Policies and roles of the three services: one template, or more where there are so many projections that a
    /// policy needs several parts.
    pub service_access: Vec<Template>,
    /// Policies and roles of the operator's commands, and the policy of KEDA: likewise.
    pub operator_access: Vec<Template>,
    /// One template for each version of a projection.
    pub projections: Vec<Template>,
}

impl Stack {
    /// Renders all templates.
    ///
    /// # Errors
    /// If AWS would refuse a name or a template, if something is declared twice, or if a projection's source is
    /// unknown.
    pub fn render(&self) -> Result<Templates, InfraError> {
        check::description(self)?;
        Templates::of(self)
    }

    /// The names of all projections' queues, for KEDA or whatever else scales the projector by their depth.
    ///
    /// # Errors
    /// As [`Stack::render`], and if the prefix is too long for the names.
    pub fn queues(&self, prefix: &str) -> Result<Vec<String>, InfraError> {
        check::description(self)?;
        check::prefix(self, prefix)?;
        Ok(self.projections.iter().map(|each| names::queue(prefix, &each.id())).collect())
    }
}

impl Templates {
    pub(crate) fn of(stack: &Stack) -> Result<Self, InfraError> {
        Ok(Self {
            data: data::template(stack)?,
            application: application::template(stack)?,
            service_access: access::services(stack)?,
            operator_access: access::operators(stack)?,
            projections: stack
                .projections
                .iter()
                .map(|each| projection::template(stack, each))
                .collect::<Result<_, _>>()?,
        })
    }

    /// All templates in the order in which their stacks are created. They are deleted in the reverse order.
    ///
    /// The rules of projections need the event bus, and further parts of policies need the roles. Nothing else
    /// depends on another stack.
    pub fn in_order(&self) -> impl Iterator<Item = &Template> {
        [&self.data, &self.application]
            .into_iter()
            .chain(&self.service_access)
            .chain(&self.operator_access)
            .chain(&self.projections)
    }
}
