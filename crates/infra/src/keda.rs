//! The scaling of the projector by KEDA.

use crate::{Stack, names, template::RENDERED};

/// The prefix is replaced by that of the ConfigMap `stack`.
const KUSTOMIZATION: &str = "\
# Scales the projector by the depth of its queues, in place of its autoscaler by processor time. Needs KEDA, whose
# operator's role needs the policy `<prefix>-queue-depth`.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources:
  - scaled-object.yaml
patches:
  - patch: |-
      $patch: delete
      apiVersion: autoscaling/v2
      kind: HorizontalPodAutoscaler
      metadata:
        name: projector
replacements:
  - source: { kind: ConfigMap, name: stack, fieldPath: data.AWS_REGION }
    targets:
      - select: { kind: ScaledObject, name: projector }
        fieldPaths: [\"spec.triggers.*.metadata.awsRegion\"]
  - source: { kind: ConfigMap, name: stack, fieldPath: data.MILLRACE_PREFIX }
    targets:
      - select: { kind: ScaledObject, name: projector }
        fieldPaths: [\"spec.triggers.*.metadata.queueURL\"]
        options: { delimiter: \"-\", index: 0 }
";

const SCALED_OBJECT: &str = "\
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: projector
spec:
  # The role of KEDA's own operator.
  podIdentity: { provider: aws }
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: projector
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: projector }
  # Not to none: a caller with a read-after token would wait for the start of a projector.
  minReplicaCount: 2
  maxReplicaCount: 20
  cooldownPeriod: 300
  # Where the queues cannot be asked, as many replicas as carry a usual day.
  fallback: { failureThreshold: 5, replicas: 4 }
  # One for each projection, by the name of its queue. A replica works on 200 messages of a queue at a time
  # (MESSAGES_AT_ONCE), and brings some 4,000 a second to their rows. Messages in flight do not count: those that wait for
  # a newer release or a throttled row are hidden, and no further replica would help them.
  triggers:
";

fn trigger(queue: &str) -> String {
    format!(
        "    - type: aws-sqs-queue
      authenticationRef: {{ name: projector }}
      metadata:
        queueURL: {queue}
        queueLength: \"200\"
        scaleOnInFlight: \"false\"
        awsRegion: us-east-1
"
    )
}

impl Stack {
    /// A component of kustomize that scales the projector by its queues: the paths of its files, and their texts. None
    /// without projections.
    #[must_use]
    pub fn keda(&self) -> Vec<(&'static str, String)> {
        if self.projections.is_empty() {
            return Vec::new();
        }
        let triggers = self.projections.iter().map(|each| trigger(&names::queue("prefix", &each.id())));
        vec![
            ("keda/kustomization.yaml", format!("{RENDERED}{KUSTOMIZATION}")),
            ("keda/scaled-object.yaml", format!("{RENDERED}{SCALED_OBJECT}{}", triggers.collect::<String>())),
        ]
    }
}
