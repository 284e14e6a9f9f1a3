{{/*
What the operator may do, as listed in docs/operations.md. Rules for namespaced resources come first: they are bound
in all namespaces or in those of watchNamespaces.
*/}}
{{- define "plumbline.namespacedRules" -}}
- apiGroups: [plumbline.dev]
  resources: [preferencejobs, rlvrjobs]
  verbs: [get, list, watch, delete]
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

{{- define "plumbline.clusterRules" -}}
- apiGroups: [plumbline.dev]
  resources: [clustertrainerruntimes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end -}}
