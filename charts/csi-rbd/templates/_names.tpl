{{/*
Names and labels. They are those of ceph-csi's chart ceph-csi-rbd, so that a release may be upgraded from one chart to
the other: names that differed would leave two DaemonSets on one socket, and labels of a selector cannot change.
*/}}

{{/* The name in labels and, unless the release's name holds it, in the names of objects. */}}
{{- define "csi-rbd.name" -}}
{{- .Values.nameOverride | default "ceph-csi-rbd" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of the parts of a component; takes (list root component), with the values of nodeplugin or provisioner. */}}
{{- define "csi-rbd.fullnameOf" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- if $component.fullnameOverride -}}
{{- $component.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "csi-rbd.name" $root -}}
{{- $release := $root.Release.Name -}}
{{- $prefix := $root.Values.fullnameOverride | default (ternary $release (printf "%s-%s" $release $name) (contains $name $release)) -}}
{{- printf "%s-%s" $prefix $component.name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "csi-rbd.node.fullname" -}}{{ include "csi-rbd.fullnameOf" (list . .Values.nodeplugin) }}{{- end -}}
{{- define "csi-rbd.controller.fullname" -}}{{ include "csi-rbd.fullnameOf" (list . .Values.provisioner) }}{{- end -}}

{{- define "csi-rbd.node.account" -}}
{{- $account := .Values.serviceAccounts.nodeplugin -}}
{{- $account.name | default (ternary (include "csi-rbd.node.fullname" .) "default" $account.create) -}}
{{- end -}}

{{- define "csi-rbd.controller.account" -}}
{{- $account := .Values.serviceAccounts.provisioner -}}
{{- $account.name | default (ternary (include "csi-rbd.controller.fullname" .) "default" $account.create) -}}
{{- end -}}

{{/* Labels that select the pods of a component; takes (list root component). They never change. */}}
{{- define "csi-rbd.selector" -}}
{{- $root := index . 0 -}}
app: {{ include "csi-rbd.name" $root }}
component: {{ (index . 1).name }}
release: {{ $root.Release.Name }}
{{- end -}}

{{/* Labels of an object; takes (list root), or (list root component) and further maps of labels. */}}
{{- define "csi-rbd.labels" -}}
{{- $root := index . 0 -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $labels := dict
  "app" (include "csi-rbd.name" $root)
  "chart" $chart
  "release" $root.Release.Name
  "heritage" $root.Release.Service
  "app.kubernetes.io/name" "csi-rbd"
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" $chart -}}
{{- range $more := rest (rest .) -}}{{- $labels = mergeOverwrite $labels (deepCopy ($more | default dict)) -}}{{- end -}}
{{- $labels = mergeOverwrite $labels (deepCopy ($root.Values.commonLabels | default dict)) -}}
{{- if gt (len .) 1 -}}
{{- $component := index . 1 -}}
{{- $_ := set $labels "app.kubernetes.io/component" $component.name -}}
{{- $labels = mergeOverwrite $labels (include "csi-rbd.selector" (list $root $component) | fromYaml) -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end -}}
