from data.preparation.trees import left_out, write_image, write_lines, written_table

from ols.data.preparation.knee import prepare_acl, prepare_meniscus


def test_slices_of_a_knee_belong_to_their_exam_and_divided_exams_are_named(tmp_path):
    one, two, three, lost = (
        f"images/{name}.000000.png"
        for name in ("0001_sagittal_11", "0001_sagittal_12", "0002_sagittal_9", "0003_sagittal_1")
    )
    lists = tmp_path / "dataframe"
    write_lines(lists / "train_fold1.csv", "filename,acl_label", f"{one},yes", f"{lost},no")
    write_lines(lists / "test_fold1.csv", "filename,acl_label", f"{two},yes", f"{three},no", "images/odd.png,no")
    write_lines(lists / "val_fold1.csv", "filename,acl_label", "images/0005_sagittal_1.000000.png,maybe")
    for name in (one, two, three):
        write_image(tmp_path / name)
    prepared = prepare_acl(tmp_path)
    table = written_table(prepared, "class", "acl_tear")
    assert table.targets.tolist() == [1, 1, 0]
    assert [table.sample_group(index) for index in range(3)] == ["0001", "0001", "0002"]
    assert table.attributes["test_fold"].tolist() == ["", "1", "1"]
    assert "1 exams lie in several splits of one of the published folds: 0001" in (tmp_path / "prepared.md").read_text()
    assert left_out(prepared) == {
        lost: "no such image",
        "images/odd.png": "not named `<exam>_<plane>_<slice>`",
        "images/0005_sagittal_1.000000.png": "label 'maybe' is unknown",
    }


def test_a_meniscus_with_two_labels_is_left_out(tmp_path):
    name, other = "images/0571_sagittal_12.000000.png", "images/0572_sagittal_1.000000.png"
    write_lines(tmp_path / "dataframe" / "meniscus_test_fold1.csv", "img_dir,label", f"{name},n", f"{other},p")
    write_lines(tmp_path / "dataframe" / "meniscus_train_fold2.csv", "img_dir,label", f"{name},p", f"{other},p")
    write_image(tmp_path / name)
    write_image(tmp_path / other)
    prepared = prepare_meniscus(tmp_path)
    assert written_table(prepared, "multilabel", "meniscus_tear").targets.tolist() == [[1]]
    assert left_out(prepared) == {name: "rows that contradict each other"}
