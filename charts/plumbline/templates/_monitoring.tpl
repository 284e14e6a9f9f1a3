{{/*
Whether to make objects of the Prometheus operator: "true", or nothing. Takes the switch (auto, true, false), a kind of
monitoring.coreos.com/v1 and the root.
*/}}
{{- define "plumbline.prometheusOperator" -}}
{{- if eq (toString .switch) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}true{{- end -}}
{{- else if .switch -}}true{{- end -}}
{{- end -}}

{{/* Whether to annotate what can be scraped: "true", or nothing. */}}
{{- define "plumbline.scrapeAnnotated" -}}
{{- $monitors := include "plumbline.prometheusOperator" (dict "switch" .Values.metrics.monitors.enabled "kind" "PodMonitor" "root" .) -}}
{{- if and .Values.metrics.scrapeAnnotations (not $monitors) -}}true{{- end -}}
{{- end -}}

{{/* Annotations by which Prometheus finds a port; takes its number as text. */}}
{{- define "plumbline.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ . | quote }}
{{- end -}}
