{{/*
Remove x-kubernetes-validations everywhere below a value. Servers before Kubernetes 1.23 do not know the field, and
Helm's validation refuses what the server does not know. The operator checks the same rules there.
*/}}
{{- define "plumbline.dropValidations" -}}
{{- if kindIs "map" . }}
{{- $_ := unset . "x-kubernetes-validations" }}
{{- range $_, $value := . }}{{ include "plumbline.dropValidations" $value }}{{ end }}
{{- else if kindIs "slice" . }}
{{- range . }}{{ include "plumbline.dropValidations" . }}{{ end }}
{{- end }}
{{- end -}}
