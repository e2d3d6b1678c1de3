{{/* A value by its path, as JSON; "" where it is absent. Takes (list values path). */}}
{{- define "csi-rbd.notes.value" -}}
{{- $value := index . 0 -}}
{{- range splitList "." (index . 1) -}}
{{- $value = kindIs "map" $value | ternary (get (kindIs "map" $value | ternary $value dict) .) nil -}}
{{- end -}}
{{- kindIs "invalid" $value | ternary "" (toJson $value) -}}
{{- end -}}

{{/* Keys of the values that have no effect, a line each. */}}
{{- define "csi-rbd.notes.withoutEffect" -}}
{{- range .Files.Get "files/without-effect.yaml" | fromYamlArray }}
{{- $value := include "csi-rbd.notes.value" (list $.Values .key) -}}
{{- $excepted := and .except (eq (include "csi-rbd.notes.value" (list $.Values .except)) "true") -}}
{{- if not (or $excepted (has $value (list "" "{}" "[]" "\"\"")) (and (hasKey . "unless") (eq $value (toJson .unless)))) }}
- {{ .key }}: {{ .why }}
{{- end }}
{{- end }}
{{- $image := (.Values.nodeplugin.plugin).image | default dict }}
{{- if regexMatch "(^|/)cephcsi$" ($image.repository | default "") }}
- nodeplugin.plugin.image.repository: it names ceph-csi; image.repository names this driver
- nodeplugin.plugin.image.tag: it belongs to ceph-csi; image.tag belongs to this driver
{{- else if and $image.tag (not $image.repository) }}
- nodeplugin.plugin.image.tag: it goes with a repository beside it; image.tag is the tag of image.repository
{{- end }}
{{- $attacher := .Values.provisioner.attacher }}
{{- if and $attacher.enabled (not $attacher.sidecar) }}
{{- range $key, $given := dict "args" (list $attacher.args list false) "extraArgs" (list dict $attacher.extraArgs false) }}
{{- with include "csi-rbd.attacherArgs" $given | fromYamlArray }}
- provisioner.attacher.{{ $key }}: the driver's attacher does not have {{ join " " . }}; with attacher.sidecar upstream's runs
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Keys that nothing reads; takes (list values known path). */}}
{{- define "csi-rbd.notes.unknown" -}}
{{- $known := index . 1 -}}
{{- $path := index . 2 -}}
{{- range $key, $value := index . 0 }}
{{- $at := printf "%s%s" $path $key -}}
{{- if not (hasKey $known $key) }}
- {{ $at }}
{{- else if and (kindIs "map" (get $known $key)) (kindIs "map" $value) }}
{{- include "csi-rbd.notes.unknown" (list $value (get $known $key) (printf "%s." $at)) }}
{{- end }}
{{- end }}
{{- end -}}
