{{/* The sidecars that run, by the keys of their values; so are their ports named. */}}
{{- define "csi-rbd.sidecars" -}}
- provisioner
{{- if .Values.provisioner.resizer.enabled }}
- resizer
{{- end }}
{{- if .Values.provisioner.snapshotter.enabled }}
- snapshotter
{{- end }}
{{- if and .Values.provisioner.attacher.enabled .Values.provisioner.attacher.sidecar }}
- attacher
{{- end }}
{{- end -}}

{{/*
A sidecar of the Kubernetes project: (list root name values args port), with `args` a text of arguments that the chart
gives it and `port` the name of its port, which ceph-csi's PodMonitor knows it by.
*/}}
{{- define "csi-rbd.sidecar" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- $port := index . 4 -}}
{{- $http := ($values.args | default dict).httpEndpointPort -}}
{{- $more := include "csi-rbd.moreArgs" (list $values.args $values.extraArgs) -}}
- name: {{ index . 1 }}
  image: {{ include "csi-rbd.image" (list $root $values.image) | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  args:
    - --csi-address=unix:///csi/{{ $root.Values.provisionerSocketFile }}
    - --v={{ $root.Values.sidecarLogLevel }}
    - --timeout={{ $root.Values.provisioner.timeout }}
    - --leader-election=true
    {{- with $http }}
    - --http-endpoint=:{{ . }}
    {{- end }}
    {{- index . 3 | trim | nindent 4 }}
    {{- $more | nindent 4 }}
  env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    {{- with $values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $http }}
  ports:
    - name: {{ $port }}
      containerPort: {{ . }}
      protocol: TCP
  {{- /* What the probes ask is the election's. */}}
  {{- if not (include "csi-rbd.electsNobody" ($more | fromYamlArray)) }}
  # it serves nothing until the driver answers: five minutes, as the driver has
  startupProbe:
    {{- include "csi-rbd.electionHealth" $port | nindent 4 }}
    {{- include "csi-rbd.startPatience" $root | nindent 4 }}
  livenessProbe:
    {{- include "csi-rbd.electionHealth" $port | nindent 4 }}
    periodSeconds: 20
    timeoutSeconds: 10
  {{- end }}
  {{- end }}
  {{- include "csi-rbd.container" (list $values $root.Values.provisioner.securityContext nil) | nindent 2 }}
  volumeMounts:
    - name: socket-dir
      mountPath: /csi
    {{- with $values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* "true" where a list of arguments has the last word against an election, as Go reads it. */}}
{{- define "csi-rbd.electsNobody" -}}
{{- $last := "" -}}
{{- range . -}}
{{- if regexMatch "^--?leader-election(=|$)" . -}}{{- $last = . -}}{{- end -}}
{{- end -}}
{{- if regexMatch "=(0|f|F|false|FALSE|False)$" $last -}}true{{- end -}}
{{- end -}}

{{/* What each probe of a sidecar asks; takes the name of the port. */}}
{{- define "csi-rbd.electionHealth" -}}
httpGet:
  path: /healthz/leader-election
  port: {{ . }}
{{- end -}}

{{/* Whether an image is older than a version; takes (list image version). An image without a version counts as new. */}}
{{- define "csi-rbd.olderThan" -}}
{{- $version := regexFind "^v?[0-9]+\\.[0-9]+\\.[0-9]+" (toString (index . 0).tag) -}}
{{- if and $version (not (index . 0).digest) -}}
{{- if semverCompare (printf "<%s" (index . 1)) $version -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "csi-rbd.provisioner.args" -}}
{{- $gates := list -}}
{{- /* Both are part of newer ones, and the first is an error from 6.2 on. */ -}}
{{- if include "csi-rbd.olderThan" (list .Values.provisioner.provisioner.image "5.3.0") -}}
{{- $gates = append $gates "HonorPVReclaimPolicy=true" -}}
{{- end -}}
{{- /* From 5.0 on it is on by itself, and then a claim whose class binds late needs labels of the node that its pod goes to. */ -}}
{{- $gates = append $gates (printf "Topology=%t" (ne (include "csi-rbd.domainLabels" .) "")) }}
- --default-fstype={{ .Values.provisioner.defaultFSType }}
- --extra-create-metadata=true
- --immediate-topology=false
- --prevent-volume-mode-conversion=true
- --retry-interval-start=500ms
{{- with $gates }}
- --feature-gates={{ join "," . }}
{{- end }}
{{- if .Values.CSIDriver.storageCapacity }}
- --enable-capacity=true
- --capacity-ownerref-level=2
{{- end }}
{{- end -}}

{{- define "csi-rbd.resizer.args" }}
- --handle-volume-inuse-error=false
- --retry-interval-start=500ms
{{- if include "csi-rbd.olderThan" (list .Values.provisioner.resizer.image "2.0.0") }}
- --feature-gates=RecoverVolumeExpansionFailure=true
{{- end }}
{{- end -}}

{{- define "csi-rbd.snapshotter.args" }}
- --extra-create-metadata=true
{{- if (.Values.provisioner.snapshotter.args).enableVolumeGroupSnapshots }}
{{- if include "csi-rbd.olderThan" (list .Values.provisioner.snapshotter.image "8.2.0") }}
- --enable-volume-group-snapshots=true
{{- else }}
- --feature-gates=CSIVolumeGroupSnapshot=true
{{- end }}
{{- end }}
{{- end -}}

{{- define "csi-rbd.attacher.args" }}
- --default-fstype={{ .Values.provisioner.defaultFSType }}
- --retry-interval-start=500ms
{{- end -}}
