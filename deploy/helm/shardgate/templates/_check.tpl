{{/* Values that a schema can't refuse, because each of them alone is right. */}}

{{- define "shardgate.check" -}}
{{- if and .Values.database.bundled.enabled .Values.database.existingSecret -}}
{{- fail "\n\ndatabase.bundled.enabled and database.existingSecret exclude each other.\n  hint: take one of them away" -}}
{{- end -}}
{{- if and (gt (int .Values.replicaCount) 1) (not (include "shardgate.databaseSecret" .)) -}}
{{- fail (printf "\n\nreplicaCount is %d, and more than one gateway share their state in PostgreSQL.\n  hint: set database.existingSecret to a Secret with its URL, or for a trial database.bundled.enabled=true" (int .Values.replicaCount)) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "\n\ningress.enabled needs ingress.host.\n  hint: --set ingress.host=shards.example.com" -}}
{{- end -}}
{{- if and .Values.service.nodePort (ne .Values.service.type "NodePort") -}}
{{- fail (printf "\n\nservice.nodePort is %d, but service.type is %s.\n  hint: set service.type=NodePort" (int .Values.service.nodePort) .Values.service.type) -}}
{{- end -}}
{{- end -}}
