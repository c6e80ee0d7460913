{{/* What the gateway learns from its pod and from Secrets. */}}

{{- define "shardgate.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: SHARDGATE_SERVE__TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "shardgate.adminSecret" . }}, key: token}}
{{- with include "shardgate.databaseSecret" . }}
- name: SHARDGATE_STATE__DATABASE
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.database.secretKey }}}}
{{- end }}
{{- with .Values.credentials.bucketsSecret }}
- name: SHARDGATE_BUCKETS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: buckets.json}}
{{- end }}
{{- range .Values.credentials.env }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
