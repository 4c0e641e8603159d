//! The scaling of the projector by KEDA.

use crate::{Stack, names, template::RENDERED};

/// The prefix is replaced by that of the ConfigMap `stack`.
const KUSTOMIZATION: &str = "\
# Scales the projector by the depth and the age of its queues, in place of a fixed number of replicas. Needs KEDA, whose
# operator's role needs the policy `<prefix>-queue-depth`.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources:
  - scaled-object.yaml
patches:
  - target: { kind: Deployment, name: projector }
    patch: |-
      - { op: remove, path: /spec/replicas }
replacements:
  - source: { kind: ConfigMap, name: stack, fieldPath: data.AWS_REGION }
    targets:
      - select: { kind: ScaledObject, name: projector }
        fieldPaths: [\"spec.triggers.*.metadata.awsRegion\"]
  - source: { kind: ConfigMap, name: stack, fieldPath: data.MILLRACE_PREFIX }
    targets:
      - select: { kind: ScaledObject, name: projector }
        fieldPaths:
          - spec.triggers.[type=aws-sqs-queue].metadata.queueURL
          - spec.triggers.[type=aws-cloudwatch].metadata.dimensionValue
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
  # Where the queues cannot be asked, as many replicas as carry a usual day.
  fallback: { failureThreshold: 5, replicas: 4 }
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        # Slowly: a queue is empty as long as there are replicas enough, so the right number shows only when they have
        # become too few. With the default a load of two hours goes from few replicas to many 16 times.
        scaleDown:
          stabilizationWindowSeconds: 300
          policies: [{ type: Pods, value: 1, periodSeconds: 120 }]
  # Two for each projection, by the name of its queue.
  #
  # Depth: a replica works on 200 messages of a queue at a time (MESSAGES_AT_ONCE), and brings some 4,000 a second to their
  # rows. Messages in flight do not count: those that wait for a newer release or a throttled row are hidden, and no
  # further replica would help them.
  #
  # Age: a replica for each half minute that the oldest message has waited, for messages that are few and slow. SQS leaves
  # out a message that was received three times, so those that wait do not count here either.
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
    - type: aws-cloudwatch
      authenticationRef: {{ name: projector }}
      metadata:
        namespace: AWS/SQS
        metricName: ApproximateAgeOfOldestMessage
        dimensionName: QueueName
        dimensionValue: {queue}
        metricStat: Maximum
        metricStatPeriod: \"60\"
        minMetricValue: \"0\"
        targetMetricValue: \"30\"
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
