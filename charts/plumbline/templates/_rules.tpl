{{/*
What the operator may do, as listed in docs/operations.md. Rules for namespaced resources come first: they are bound
in all namespaces or in those of watchNamespaces.
*/}}
{{- define "plumbline.namespacedRules" -}}
- apiGroups: [plumbline.dev]
  resources: [preferencejobs, rlvrjobs]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [plumbline.dev]
  resources: [preferencejobs/status, rlvrjobs/status]
  verbs: [patch]
- apiGroups: [plumbline.dev]
  resources: [preferencejobs/finalizers, rlvrjobs/finalizers]
  verbs: [update]
- apiGroups: [plumbline.dev]
  resources: [trainerruntimes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create]
{{- end -}}

{{/* In the release's namespace: the lease by which one of several operators leads. A name cannot limit `create`. */}}
{{- define "plumbline.electionRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "plumbline.operatorName" . }}]
  verbs: [get, update, patch]
{{- end -}}

{{- define "plumbline.clusterRules" -}}
- apiGroups: [plumbline.dev]
  resources: [clustertrainerruntimes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list]
{{- end -}}
