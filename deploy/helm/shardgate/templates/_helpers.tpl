{{/* Names and labels */}}

{{- define "shardgate.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* Labels ETL pods too, whose names begin with it: the gateway cuts longer names in the same way (etl/kubernetes/names.py). */}}
{{- define "shardgate.instance" -}}
{{- if le (len .Release.Name) 20 -}}
{{ .Release.Name }}
{{- else -}}
{{ printf "%s-%s" (regexReplaceAll "-+$" (.Release.Name | trunc 13) "") (.Release.Name | sha256sum | trunc 6) }}
{{- end -}}
{{- end -}}

{{- define "shardgate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "shardgate.instance" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "shardgate.selector.etl" -}}
app.kubernetes.io/instance: {{ include "shardgate.instance" . }}
app.kubernetes.io/managed-by: shardgate
{{- end -}}

{{- define "shardgate.selector.database" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "shardgate.instance" . }}
app.kubernetes.io/component: database
{{- end -}}

{{- define "shardgate.selector.test" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "shardgate.instance" . }}
app.kubernetes.io/component: test
{{- end -}}

{{/* Of every object of the chart. Components are told by their selectors. */}}
{{- define "shardgate.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "shardgate.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Images: (list root name) */}}
{{- define "shardgate.image" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s:%s" (index . 1) ($root.Values.images.tag | default $root.Chart.AppVersion) -}}
{{- if $root.Values.images.registry }}{{ trimSuffix "/" $root.Values.images.registry }}/{{ end }}{{ $name }}
{{- end -}}

{{/* A quantity (100Gi, 5G, 1048576) in bytes. */}}
{{- define "shardgate.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]*$" . -}}
{{- mulf (float64 (trimSuffix $unit .)) (get $units $unit) | int64 -}}
{{- end -}}

{{/* The gateway's resources. An emptyDir counts as its pod's ephemeral storage, which would else be too small for the cache. */}}
{{- define "shardgate.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if eq .Values.cache.type "emptyDir" -}}
{{- range $kind, $given := $resources -}}
{{- with get $given "ephemeral-storage" -}}
{{- $_ := set $given "ephemeral-storage" (add (include "shardgate.bytes" (toString .)) (include "shardgate.bytes" $.Values.cache.size) | toString) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL: others learn that it ends, running responses end, and the process has 20 to end itself. */}}
{{- define "shardgate.grace" -}}
{{- $config := include "shardgate.config" . | fromToml -}}
{{- addf $config.serve.linger_seconds $config.serve.drain_seconds 20 | ceil | int -}}
{{- end -}}

{{/* Names of Secrets that are given or generated, and of the database's URL ("" is SQLite). */}}
{{- define "shardgate.adminSecret" -}}
{{ .Values.auth.adminSecret | default (printf "%s-admin" (include "shardgate.fullname" .)) }}
{{- end -}}
{{/* Of the token with which Prometheus reads /metrics, where the chart makes one. */}}
{{- define "shardgate.metricsSecret" -}}
{{- with .Values.metrics.serviceMonitor }}{{ if and .enabled (not .tokenSecret) }}{{ include "shardgate.fullname" $ }}-metrics{{ end }}{{ end -}}
{{- end -}}
{{- define "shardgate.signingKeySecret" -}}
{{ .Values.auth.signingKeySecret | default (printf "%s-signing-key" (include "shardgate.fullname" .)) }}
{{- end -}}
{{- define "shardgate.databaseSecret" -}}
{{- if .Values.database.bundled.enabled }}{{ include "shardgate.fullname" . }}-database{{ else }}{{ .Values.database.existingSecret }}{{ end -}}
{{- end -}}

{{/* What a generated Secret holds already, so that an upgrade keeps it: (list root name key length) */}}
{{- define "shardgate.kept" -}}
{{- $root := index . 0 -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- $data := dig "data" (index . 2) "" $found -}}
{{- if $data }}{{ $data | b64dec }}{{ else }}{{ randAlphaNum (index . 3 | int) }}{{ end -}}
{{- end -}}

{{/* Containers of the chart pass Pod Security `restricted`. */}}
{{- define "shardgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
{{- define "shardgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
